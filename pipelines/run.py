"""`sadm-ray run …`, for `ray submit cluster.yaml pipelines/run.py …` and `python pipelines/run.py …`."""

import sys

from sadm_ray.__main__ import command

if __name__ == "__main__":
    command(["run", *sys.argv[1:]])
