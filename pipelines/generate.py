"""`sadm-ray generate …`, for `ray submit cluster.yaml pipelines/generate.py …` and `python pipelines/generate.py …`."""

import sys

from sadm_ray.cli import main

if __name__ == "__main__":
    main(["generate", *sys.argv[1:]])
