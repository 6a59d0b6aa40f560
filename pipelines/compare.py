"""`sadm-ray compare …`, for `ray submit cluster.yaml pipelines/compare.py …` and `python pipelines/compare.py …`."""

import sys

from sadm_ray.__main__ import command

if __name__ == "__main__":
    command(["compare", *sys.argv[1:]])
