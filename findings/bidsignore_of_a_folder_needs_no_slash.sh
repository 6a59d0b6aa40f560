#!/usr/bin/env bash
# The BIDS validator does not honour the usual way to leave out a folder. `.bidsignore` has the syntax of .gitignore, where
# `extra/` is the folder of that name with all that is in it. With `extra/`, `/extra/` or `extra/**` the validator still
# reports `/extra/` as no part of BIDS, an error; only `extra` or `/extra`, without the slash, leaves it out.
#
# Exits 0 while that is so, 1 when the validator behaves otherwise, 2 when the packages cannot be installed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" || exit 2
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check bids-validator-deno==3.0.2 nibabel==5.4.2 numpy==2.4.6 ||
  exit 2

study=$folder/study
mkdir -p "$study/sub-01/anat" "$study/extra/tables"
echo '{"Name": "One scan", "BIDSVersion": "1.10.0"}' >"$study/dataset_description.json"
echo 'One scan, and a folder that BIDS does not know.' >"$study/README"
echo 'a,b' >"$study/extra/tables/notes.csv"
echo '{}' >"$study/sub-01/anat/sub-01_T1w.json"
"$folder/venv/bin/python" - "$study/sub-01/anat/sub-01_T1w.nii.gz" <<'PYTHON'
import sys

import nibabel as nib
import numpy as np

nib.save(nib.Nifti1Image(np.arange(512, dtype=np.int16).reshape(8, 8, 8), np.eye(4)), sys.argv[1])
PYTHON

"$folder/venv/bin/bids-validator-deno" --version | head -1
same=1
for pattern in extra/ '/extra/' 'extra/**' extra /extra; do
  echo "$pattern" >"$study/.bidsignore"
  report=$("$folder/venv/bin/bids-validator-deno" "$study" 2>&1 || true)
  if grep -q NOT_INCLUDED <<<"$report"; then found=reported; else found="left out"; fi
  printf '%-10s the folder is %s\n' "$pattern" "$found"
  case $pattern in extra | /extra) wanted="left out" ;; *) wanted=reported ;; esac
  [ "$found" = "$wanted" ] || same=0
done
if [ "$same" = 1 ]; then echo "as found: a pattern with a slash does not leave a folder out"; else
  echo "CHANGED: the validator behaves otherwise now"
  exit 1
fi
