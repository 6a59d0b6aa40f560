"""Who counts as held out."""

from types import SimpleNamespace
from typing import Any

import pytest

from sadm_ray.calibrate import held_out_models
from sadm_ray.calibrate.held_out_models import _without_the_taught
from sadm_ray.errors import ConfigError
from sadm_ray.model.seen_subjects import SeenSubjects

WHO = {name: frozenset([f"scan:{name}"]) for name in "abcd"}


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Any:
    """One that started from a model which a and b had taught."""
    monkeypatch.setattr(held_out_models, "fingerprints", lambda _: WHO)
    before = SeenSubjects.of([WHO["a"], WHO["b"]], [])
    return SimpleNamespace(seen=SeenSubjects.of([WHO["d"]], [WHO["c"]], before))


def test_who_taught_the_start_model_is_left_out_and_told(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert _without_the_taught(model, ("a", "b", "c"), None).subjects == ("c",)
    assert "2 of 3 held-out subjects taught the model that train.start_from names" in caplog.text


def test_validation_subjects_are_held_out(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert _without_the_taught(model, ("c",), None).subjects == ("c",)
    assert not caplog.text


def test_with_nobody_left_it_is_refused(model: Any) -> None:
    with pytest.raises(ConfigError, match="all 2 held-out subjects taught the model"):
        _without_the_taught(model, ("a", "b"), None)
