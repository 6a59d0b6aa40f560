import math
from pathlib import Path

import numpy as np
import pytest

from sadm_ray.config import TaskSettings
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.errors import ConfigError
from sadm_ray.generate import answerable
from sadm_ray.generate.answerable import TimeLimits, can_score, require_answerable, unanswered
from tests.data.studies import made_row, write_study


def study_of(folder: Path, *times: list[float]) -> Study:
    rows = [made_row(f"s{n}", np.zeros((len(each), 2, 4, 4)), times=each) for n, each in enumerate(times)]
    return write_study(folder, rows, {"train": [row["subject"] for row in rows[1:]], "test": ["s0"]})


def test_times_may_be_a_thousand_spans_away(tmp_path: Path) -> None:
    limits = TimeLimits.of(study_of(tmp_path, [60.0, 62.0], [70.0], [65.0, 64.0]), time_scale=1.0)
    assert limits == TimeLimits(60.0, 70.0, 10_000.0, "years")
    assert limits.beyond([-9940.0, 0.0, 10_070.0]) == ""
    assert limits.beyond([65.0, 10_071.0]) == (
        "10071 is too far from the scans of the study, which are from 60 to 70 (years); take a time between -9940 and "
        "10070"
    )
    for time in (-9941.0, 1e30, math.inf, -math.inf, math.nan):
        assert f"{time:g} is too far" in limits.beyond([time])


def test_scans_of_one_time_say_little_about_the_span(tmp_path: Path) -> None:
    limits = TimeLimits.of(study_of(tmp_path, [0.0], [0.0]), time_scale=10.0)
    assert limits is not None
    assert limits.beyond([3650.0]) == "", "ten years in days"
    assert "1e+12 is too far" in limits.beyond([1e12])


def test_absent_slots_and_damaged_shards_do_not_count(tmp_path: Path) -> None:
    row = made_row("s0", np.zeros((3, 2, 4, 4)), present=[True, False, True], times=[0.0, 1e9, 2.0])
    other = made_row("s1", np.zeros((1, 2, 4, 4)), times=[5000.0])
    study = write_study(tmp_path, [row, other], {"test": ["s0", "s1"]})
    (tmp_path / "parts" / "1.parquet").write_bytes(b"PAR1")
    assert TimeLimits.of(study, 1.0) == TimeLimits(0.0, 2.0, 2000.0, "years")
    (tmp_path / "parts" / "0.parquet").unlink()
    assert TimeLimits.of(study, 1.0) is None


def task(*targets: int, observed: tuple[int, ...] = (0,)) -> TaskSettings:
    return TaskSettings(name="far", observed=observed, targets=targets)


def test_a_task_that_nobody_can_answer(tmp_path: Path) -> None:
    study = study_of(tmp_path, [0.0, 1.0], [0.0, 1.0, 2.0, 3.0])
    for each in (task(25), task(1, 4), task(-5), task(1, observed=(-9,))):
        with pytest.raises(
            ConfigError, match=r"compare\.tasks: no subject can answer 'far': .* longest sequence has 4"
        ):
            require_answerable(study, ["s0", "s1"], [task(1), each], "compare.tasks")
    require_answerable(study, ["s0", "s1"], [task(1), task(3), task(-4, observed=(1,))], "compare.tasks")
    with pytest.raises(ConfigError, match="has 2 frames, hence no frame 3"):
        require_answerable(study, ["s0"], [task(3)], "generate.tasks")


def test_who_cannot_answer_a_task(tmp_path: Path) -> None:
    study = study_of(tmp_path, [0.0, 1.0], [0.0, 1.0, 2.0, 3.0])
    assert unanswered(study, ["s1", "s0"], [task(1), task(3)]) == [
        "subject s0 has 2 frames, hence no frame 3 for task 'far'"
    ]


def test_what_can_be_scored(tmp_path: Path) -> None:
    short = made_row("s0", np.zeros((2, 2, 4, 4)))
    gap = made_row("s1", np.zeros((4, 2, 4, 4)), present=[True, True, False, True])
    study = write_study(tmp_path, [short, gap], {"val": ["s0", "s1"]})
    assert not can_score(study, ["s0", "s1"], [task(2), task(25)])
    assert can_score(study, ["s0", "s1"], [task(25), task(3)])
    assert not can_score(study, ["s0"], [task(3)])
    assert can_score(study, ["s0"], [task(3), task(1)])


def test_a_large_study_is_read_only_as_far_as_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"s{n}" for n in range(70)]
    rows = [made_row(name, np.zeros((2 + (name == "s69"), 1, 2, 2))) for name in names]
    study, read = write_study(tmp_path, rows, {"train": names}), list[int]()
    slots_of = answerable.read_slots
    monkeypatch.setattr(
        answerable, "read_slots", lambda study, some: (read.append(len(some)), slots_of(study, some))[1]
    )
    require_answerable(study, names, [task(1)], "generate.tasks")
    assert read == [64]
    require_answerable(study, names, [task(1), task(2)], "generate.tasks")
    assert read == [64, 64, 6]
