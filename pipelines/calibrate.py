"""`sadm-ray calibrate …`, for `ray submit cluster.yaml pipelines/calibrate.py …` and `python pipelines/calibrate.py …`."""

import sys

from sadm_ray.__main__ import command

if __name__ == "__main__":
    command(["calibrate", *sys.argv[1:]])
