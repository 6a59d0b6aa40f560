"""What pyproject.toml cannot say: `configs/` is installed as the folder `sadm_ray/configs` of the package."""

from setuptools import find_namespace_packages, setup

setup(
    packages=[*find_namespace_packages(include=["sadm_ray*"]), "sadm_ray.configs"],
    package_dir={"sadm_ray.configs": "configs"},
)
