"""`sadm-ray prepare …`, for `ray submit cluster.yaml pipelines/prepare.py …` and `python pipelines/prepare.py …`."""

import sys

from sadm_ray.cli import main

if __name__ == "__main__":
    main(["prepare", *sys.argv[1:]])
