"""`sadm-ray train …`, for `ray submit cluster.yaml pipelines/train.py …` and `python pipelines/train.py …`."""

import sys

from sadm_ray.__main__ import command

if __name__ == "__main__":
    command(["train", *sys.argv[1:]])
