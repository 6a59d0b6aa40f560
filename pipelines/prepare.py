"""`sadm-ray prepare …`, for `ray submit cluster.yaml pipelines/prepare.py …` and `python pipelines/prepare.py …`."""

import sys

from sadm_ray.__main__ import command

if __name__ == "__main__":
    command(["prepare", *sys.argv[1:]])
