"""`sadm-ray compare …`, for `ray submit cluster.yaml pipelines/compare.py …` and `python pipelines/compare.py …`."""

import sys

from sadm_ray.cli import main

if __name__ == "__main__":
    main(["compare", *sys.argv[1:]])
