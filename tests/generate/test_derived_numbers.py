"""Numbers that are derived from volumes: their values, their intervals, and where there are none."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from sadm_ray.config import DerivedSettings, GenerateSettings
from sadm_ray.errors import ConfigError
from sadm_ray.generate.derived_numbers import DERIVED_COLUMNS, check_derived, derive, derived_table, without_structures
from sadm_ray.generate.structure_volumes import interval, volumes_table
from sadm_ray.generate.volume_corrections import VolumeCorrection
from tests.generate.test_structure_volumes import rows

FRACTION = DerivedSettings(name="ef", kind="ejection_fraction", structures=("cavity",))
GROWTH = DerivedSettings(name="growth", kind="annual_change", structures=("wall",))
BOTH = DerivedSettings(name="both", kind="ejection_fraction", structures=("cavity", "wall"))
SAMPLES = np.array([[50.0, 44.0], [40.0, 46.0], [60.0, 42.0], [52.0, 41.0]])
"""Of the estimate and three samples."""


def volumes(baseline: Sequence[float] = (100.0, 40.0)) -> pd.DataFrame:
    """Observed at 60 and 61.5, asked for at 62.5 (years)."""
    seen = rows(np.array([baseline]), "observed", frame=0, time=60.0)
    later = rows(np.array([[80.0, 41.0]]), "observed", frame=2, time=61.5)
    return volumes_table([*later, *seen, *rows(SAMPLES)])


def test_each_kind_by_hand() -> None:
    assert derive("ejection_fraction", 80.0, np.array([32.0, 88.0]), 0.5, "").tolist() == [60, -10]
    assert derive("annual_change", 80.0, np.array([84.0]), 0.5, "years").tolist() == [pytest.approx(10)]
    assert derive("annual_change", 80.0, np.array([84.0]), 6.0, "age in months").tolist() == [pytest.approx(10)]
    assert derive("annual_change", 80.0, np.array([76.0]), -365.25, "days").tolist() == [pytest.approx(5)]
    assert np.isnan(derive("ejection_fraction", 0.0, np.array([1.0]), 1.0, "years")).all()
    assert np.isnan(derive("annual_change", 1.0, np.array([1.0]), 0.0, "years")).all()


def test_a_row_a_number_from_the_first_observed_visit_and_the_same_samples() -> None:
    table = derived_table(volumes(), [FRACTION, GROWTH], "years", 0.9, {})
    assert list(table.columns) == DERIVED_COLUMNS
    fraction, growth = table.to_dict("records")
    assert (fraction["baseline_time"], fraction["time"], fraction["unit"], fraction["samples"]) == (60, 62.5, "%", 3)
    assert (fraction["estimate"], fraction["median"]) == (pytest.approx(50), pytest.approx(48))
    low, high = interval(400 * (1 - SAMPLES[1:, 0] / 100), 0.9)  # of what has gone, in voxels
    assert (fraction["low"], fraction["high"]) == (pytest.approx(low / 4), pytest.approx(high / 4))
    assert growth["unit"] == "%/year"
    assert growth["estimate"] == pytest.approx(100 * 4 / 40 / 2.5)
    assert growth["low"] < growth["median"] < growth["high"]
    assert math.isnan(fraction["corrected_low"])


def test_the_corrected_interval_is_that_of_the_volume_and_a_sum_has_none() -> None:
    corrections = {("anna", "future", name): VolumeCorrection(2.0, 12) for name in ("cavity", "wall")}
    fraction, both = derived_table(volumes(), [FRACTION, BOTH], "", 0.9, corrections).to_dict("records")
    low, high = interval(4 * SAMPLES[1:, 0], 0.9, 2.0)
    assert fraction["corrected_low"] == pytest.approx(100 - high / 4)
    assert fraction["corrected_high"] == pytest.approx(100 - low / 4)
    assert fraction["held_out"] == 12
    assert both["estimate"] == pytest.approx(100 * (1 - 94 / 140))
    assert both["low"] < both["high"]
    assert math.isnan(both["corrected_low"])
    assert both["held_out"] == 0


def test_without_a_baseline_there_is_no_row_and_of_an_empty_one_no_number() -> None:
    assert derived_table(volumes_table(rows(SAMPLES)), [FRACTION], "", 0.9, {}).empty
    assert derived_table(volumes_table([]), [FRACTION], "", 0.9, {}).empty
    (row,) = derived_table(volumes((0.0, 0.0)), [FRACTION], "", 0.9, {}).to_dict("records")
    assert math.isnan(row["estimate"])
    other = DerivedSettings(name="x", kind="ejection_fraction", structures=("cortex",))
    assert derived_table(volumes(), [other], "", 0.9, {}).empty
    (line,) = without_structures(volumes(), [FRACTION, other])
    assert line == "generate.derived: no label map has 'cortex', of which x is made; they have cavity, wall"
    assert not list(without_structures(volumes_table([]), [other])), "nobody has label maps"


def test_a_change_a_year_needs_a_unit_of_time() -> None:
    for unit in ("years", "Months", "weeks", "days since the first visit"):
        check_derived([GROWTH], unit)
    check_derived([FRACTION], "cardiac phase (ED 0, ES 1)")
    for unit in ("cardiac phase (ED 0, ES 1)", "", "visits"):
        with pytest.raises(ConfigError, match=r"generate\.derived: 'growth' .* set data\.time_unit to one of") as error:
            check_derived([FRACTION, GROWTH], unit)
        assert "\n" not in str(error.value)


def test_two_numbers_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two numbers are called 'ef'"):
        GenerateSettings(derived=(FRACTION, FRACTION))
