"""`sadm-ray evaluate …`, for `ray submit cluster.yaml pipelines/evaluate.py …` and `python pipelines/evaluate.py …`."""

import sys

from sadm_ray.__main__ import command

if __name__ == "__main__":
    command(["evaluate", *sys.argv[1:]])
