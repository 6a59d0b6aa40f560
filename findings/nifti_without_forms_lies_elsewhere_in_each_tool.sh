#!/usr/bin/env bash
# A NIfTI file whose qform_code and sform_code are both 0 lies where its voxel sizes say: the format's "method 1",
# x = pixdim[1] · i to the right, y = pixdim[2] · j to the front, z = pixdim[3] · k to the head. Neither nibabel nor ITK
# does that. nibabel turns x around and puts the middle of the volume at 0; ITK (SimpleITK) turns x and y around and puts
# the first voxel at 0. So what is front in one is back in the other, and the same voxel is far apart.
# Such files are common: conversions from Analyze, arrays saved without an affine.
#
# Exits 0 while that is so, 1 when one of them behaves otherwise, 2 when the packages cannot be installed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" || exit 2
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check SimpleITK==2.5.7 nibabel==5.4.2 numpy==2.4.6 || exit 2

cat >"$folder/where.py" <<'PYTHON'
import sys

import nibabel as nib
import numpy as np
import SimpleITK as sitk

file = f"{sys.argv[1]}/a.nii"
shape, sizes = (10, 12, 8), (1.5, 2.0, 3.0)
image = nib.Nifti1Image(np.zeros(shape, np.int16), None)
image.header.set_zooms(sizes)
image.header["qform_code"] = image.header["sform_code"] = 0
nib.save(image, file)

loaded, read = nib.load(file), sitk.ReadImage(file)
assert loaded.header["qform_code"] == loaded.header["sform_code"] == 0
to_ras = np.diag([-1.0, -1.0, 1.0])  # ITK counts to the left and to the back
itk = np.eye(4)
itk[:3, :3] = to_ras @ np.reshape(read.GetDirection(), (3, 3)) @ np.diag(read.GetSpacing())
itk[:3, 3] = to_ras @ read.GetOrigin()
found = {"nibabel": np.asarray(loaded.affine), "ITK": itk}

print(f"nibabel {nib.__version__}, SimpleITK {sitk.Version_VersionString()}; {shape} voxels of {sizes} mm, both codes 0")
for tool, affine in {"format": np.diag([*sizes, 1.0]), **found}.items():
    first, last = affine[:3, 3], affine @ [*(size - 1 for size in shape), 1]
    print(f"{tool:8s} first voxel at {np.round(first, 2) + 0}, last at {np.round(last[:3], 2) + 0} (right, front, head)")
signs = {tool: tuple(np.sign(np.diag(affine)[:3]).astype(int).tolist()) for tool, affine in found.items()}
centred = np.allclose(found["nibabel"] @ [*((size - 1) / 2 for size in shape), 1], [0, 0, 0, 1])
same = signs == {"nibabel": (-1, 1, 1), "ITK": (-1, -1, 1)} and centred and np.allclose(itk[:3, 3], 0)
print("as found: three answers to where it lies" if same else "CHANGED: they behave otherwise now")
sys.exit(not same)
PYTHON

"$folder/venv/bin/python" "$folder/where.py" "$folder"
