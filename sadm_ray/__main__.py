"""`python -m sadm_ray` is the command `sadm-ray`."""

from sadm_ray.cli import main

main()
