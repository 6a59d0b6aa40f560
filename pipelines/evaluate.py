"""`sadm-ray evaluate …`, for `ray submit cluster.yaml pipelines/evaluate.py …` and `python pipelines/evaluate.py …`."""

import sys

from sadm_ray.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
