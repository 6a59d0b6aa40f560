"""`sadm-ray calibrate …`, for `ray submit cluster.yaml pipelines/calibrate.py …` or `python …`."""

import sys

from sadm_ray.__main__ import command

if __name__ == "__main__":
    command(["calibrate", *sys.argv[1:]])
