"""Settings of the numbers that are derived from volumes of structures."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sadm_ray.config.base import Name, Section


class DerivedSettings(Section):
    """A number that is derived from the volume of `structures` (of several their sum) at two visits: the baseline, the
    first observed one with a label map, and a generated one.

    `kind`: the `ejection_fraction` is what has gone since the baseline, in % of the volume there; the `annual_change`
    is what has come, in % of it a year. The latter needs times in years, months, weeks, days or hours.
    """

    name: Name
    kind: Literal["ejection_fraction", "annual_change"]
    structures: tuple[str, ...] = Field(min_length=1)
