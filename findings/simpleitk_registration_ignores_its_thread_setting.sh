#!/usr/bin/env bash
# SimpleITK's `ImageRegistrationMethod.SetNumberOfThreads(1)` does not make a registration one of one thread: its metric
# goes on with as many threads as there are cores, and sums in an order that changes from run to run. So two runs of the
# same registration, with a seed and one thread set, end in different parameters. Only the setting of the whole process,
# `ProcessObject.SetGlobalDefaultNumberOfThreads(1)`, makes them equal to the last bit.
# Who compares results, or stores digests of them, finds them changed without a cause.
#
# Exits 0 while that is so, 1 when SimpleITK behaves otherwise, 2 when the packages cannot be installed or there is only
# one core.
set -euo pipefail

[ "$(nproc)" -gt 1 ] || { echo "one core: nothing can be seen"; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" || exit 2
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check SimpleITK==2.5.7 numpy==2.4.6 || exit 2
unset ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS

cat >"$folder/register.py" <<'PYTHON'
import sys

import numpy as np
import SimpleITK as sitk

RUNS = 12
z, y, x = np.meshgrid(*[np.linspace(-1, 1, size) for size in (24, 44, 40)], indexing="ij")
head = 300.0 * (x**2 / 0.5 + y**2 / 0.7 + z**2 / 0.5 < 1) + 250.0 * ((x + 0.3) ** 2 + (y - 0.3) ** 2 + z**2 < 0.03)
fixed = sitk.GetImageFromArray(head.astype(np.float32))
moving = sitk.GetImageFromArray(np.roll(head, (1, 3, -2), (0, 1, 2)).astype(np.float32))


def found() -> tuple[float, ...]:
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.2, 1)  # with a seed
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 60)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(sitk.Euler3DTransform(), inPlace=False)
    return tuple(method.Execute(fixed, moving).GetParameters())


print(f"SimpleITK {sitk.Version_VersionString()}, Python {sys.version.split()[0]}; {RUNS} runs of one registration")
own = len({found() for _ in range(RUNS)})
print(f"SetNumberOfThreads(1) of the method: {own} different results")
sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
whole = len({found() for _ in range(RUNS)})
print(f"and of the process:                  {whole} different results")
same = own > 1 and whole == 1
print("as found: the method's own setting is not enough" if same else "CHANGED: SimpleITK behaves otherwise now")
sys.exit(not same)
PYTHON

"$folder/venv/bin/python" "$folder/register.py"
