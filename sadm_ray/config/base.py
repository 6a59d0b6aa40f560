"""Types that the sections of the settings share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Shape = tuple[Positive, Positive, Positive]  # d, h, w
SamplerName = Literal["euler", "ancestral", "ddim", "dpm++"]
Precision = Literal["float32", "bfloat16", "auto"]  # auto: bfloat16 where the device has units for it

LARGEST_TIME = 1e13
"""No time of a scan or of a request is larger, whatever its unit: milliseconds since 1970 are below it, and the squares
of what is computed from it in single precision are far from infinity."""
Time = Annotated[FiniteFloat, Field(ge=-LARGEST_TIME, le=LARGEST_TIME)]

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
"""What a run, task or subject may be called: such a name can never leave the folder that it is written to."""


def _safe_name(name: str) -> str:
    if not SAFE_NAME.fullmatch(name):
        raise ValueError("use letters, digits, '_', '-' and '.', beginning with a letter or digit")
    return name


Name = Annotated[str, AfterValidator(_safe_name)]

_Where = TypeVar("_Where", str, Path)


def storable(where: _Where) -> _Where:
    """A path or URL that every file can be called by, also in the tables and databases that name it.

    Raises:
        ValueError: it holds NUL, or a byte that is no UTF-8.
    """
    text = str(where)
    if "\0" in text:
        raise ValueError("holds the character NUL, which no path can; remove it")
    foreign = [character for character in text if "\ud800" <= character <= "\udfff"]  # how Python reads such bytes
    if foreign:
        raise ValueError(f"holds {foreign[0]!a}, a byte that is no UTF-8; rename that folder or file")
    return where


class Section(BaseModel):
    """A group of settings: frozen, and closed to keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")
