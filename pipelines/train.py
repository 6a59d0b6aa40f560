"""`sadm-ray train …`, for `ray submit cluster.yaml pipelines/train.py …` and `python pipelines/train.py …`."""

import sys

from sadm_ray.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
