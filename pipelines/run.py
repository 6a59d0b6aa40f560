"""`sadm-ray run …`, for `ray submit cluster.yaml pipelines/run.py …` and `python pipelines/run.py …`."""

import sys

from sadm_ray.cli import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
