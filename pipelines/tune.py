"""`sadm-ray tune …`, for `ray submit cluster.yaml pipelines/tune.py …` and `python pipelines/tune.py …`."""

import sys

from sadm_ray.cli import main

if __name__ == "__main__":
    main(["tune", *sys.argv[1:]])
