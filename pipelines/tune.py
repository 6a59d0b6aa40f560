"""`sadm-ray tune …`, for `ray submit cluster.yaml pipelines/tune.py …` and `python pipelines/tune.py …`."""

import sys

from sadm_ray.__main__ import command

if __name__ == "__main__":
    command(["tune", *sys.argv[1:]])
