"""`sadm-ray generate …`, for `ray submit cluster.yaml pipelines/generate.py …` and `python pipelines/generate.py …`."""

import sys

from sadm_ray.__main__ import command

if __name__ == "__main__":
    command(["generate", *sys.argv[1:]])
