"""The members of a comparison, their settings and tasks."""

from pathlib import Path

import pytest

from sadm_ray.compare.compared_models import comparison_tasks, members_of
from sadm_ray.config import Settings
from sadm_ray.config.settings_file import load_settings, with_values
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.errors import ConfigError


def study(frames: int | None) -> Study:
    return Study("/shards", "digest", "content", "same", frames, (8, 32, 32), "phase", {}, 0.1)


def test_every_kind_with_every_seed_and_one_budget(tmp_path: Path) -> None:
    settings = with_values(
        Settings(), {"compare.seeds": 2, "compare.kinds": ["sadm", "gan"], "seed": 7, "train.seed": 1}
    )
    members = members_of(settings, study(8), tmp_path)
    assert [member.name for member in members] == ["sadm-0", "gan-0", "sadm-1", "gan-1"]
    assert [member.settings.seed for member in members] == [7, 7, 8, 8]
    assert [member.settings.training_seed for member in members] == [7, 7, 8, 8]
    for member in members:
        assert member.settings.train.steps == settings.train.steps
        assert member.settings.data.shards == "/shards"
        assert member.folder == tmp_path / member.name
        assert member.settings.model.kind == member.kind
        assert member.settings.tune.num_steps == (1, 2, 4)
        assert member.settings.generate.samples == (1 if member.kind == "gan" else settings.generate.samples)


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (8, {"single-image": (0,), "missing-data": (0, 2, 4), "full-sequence": (0, 1, 2, 3, 4, 5, 6)}),
        (12, {"single-image": (0,), "missing-data": (0, 3, 6), "full-sequence": tuple(range(11))}),
        (3, {"single-image": (0,), "missing-data": (0, 1)}),  # which is also the whole sequence before the target
        (2, {"single-image": (0,)}),
    ],
)
def test_the_papers_three_tasks(frames: int, expected: dict[str, tuple[int, ...]]) -> None:
    tasks = comparison_tasks(Settings(), study(frames))
    assert {task.name: task.observed for task in tasks} == expected
    assert all(task.targets == (-1,) for task in tasks)


def test_own_tasks_and_those_of_visits() -> None:
    assert comparison_tasks(Settings(), study(None)) == Settings().generate.tasks
    own = with_values(Settings(), {"compare.tasks": [{"name": "mine", "observed": [1], "targets": [2]}]})
    assert [task.name for task in comparison_tasks(own, study(8))] == ["mine"]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("compare.kinds=[gan]", "sadm is what the others are compared with"),
        ("compare.kinds=[sadm,gan,gan]", "names one twice"),
        ("compare.kinds=[sadm,gans]", "compare.kinds"),
        ("compare.tasks=[{name: a, observed: [0], targets: [9]}]", "compare.tasks: frame 9 of 'a' lies outside"),
    ],
)
def test_mistakes_are_one_line(override: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line.replace("[", r"\[")):
        load_settings(None, [override])
