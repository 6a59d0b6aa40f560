"""The settings files that come with the package, by name.

The wheel holds them as `sadm_ray/configs/`, where the build copies them (`setup.py`). A checkout, an editable install
too, has them where they are edited: in `configs/` beside the package.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

SUFFIX = ".yaml"


def preset_names() -> list[str]:
    """The names of the packaged settings files, such as `acdc_small`, in alphabetical order."""
    return sorted(file.stem for file in _folder().glob(f"*{SUFFIX}"))


def preset_file(name: str) -> Path | None:
    """The packaged settings file of this name; none: there is no such one."""
    return _folder() / f"{name}{SUFFIX}" if name in preset_names() else None


def _folder() -> Path:
    package = Path(str(resources.files("sadm_ray")))
    installed, checkout = package / "configs", package.parent / "configs"
    return installed if installed.is_dir() else checkout
