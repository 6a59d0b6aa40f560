"""Errors before a sweep begins, and which sweeps are the same one."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sadm_ray.config import Settings
from sadm_ray.errors import ConfigError, DataError
from sadm_ray.tune import sampling_sweep
from tests.model.test_sadm import small

STUDY: Any = SimpleNamespace(content="abc", names=lambda split: ("a",))


def test_ssim_without_its_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling_sweep, "structure_can_be_scored", lambda: False)
    settings = Settings.model_validate({"tune": {"objectives": ["gain", "ssim"]}})
    with pytest.raises(ConfigError, match=r"tune\.objectives: ssim needs scikit-image; install sadm-ray\[eval\]"):
        sampling_sweep.tune_sampling(settings, STUDY, tmp_path, tmp_path, None)  # type: ignore[arg-type]


def test_a_missing_average_is_an_error_at_once(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    settings = Settings.model_validate({"tune": {"ema": [0.9]}})
    with pytest.raises(DataError, match=r"no average ema-0\.9"):
        sampling_sweep.tune_sampling(settings, STUDY, tmp_path, tmp_path, None)  # type: ignore[arg-type]


def test_other_tasks_settings_or_model_are_another_sweep(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)

    def name(subjects: tuple[str, ...] = ("a", "b"), content: str = "abc", **changes: Any) -> str:
        study: Any = SimpleNamespace(content=content)
        return sampling_sweep._sweep_name(Settings.model_validate(changes), study, subjects, tmp_path)

    first = name()
    for ignored in (
        {"tune": {"trials": 50, "concurrent": 1, "grid_points": 7}},
        {"tune": {"training": {"trials": 3}}},
        {"generate": {"actors": 7, "batch_size": 1}},
        {"run": {"name": "other"}},
        {"sampling": {"guidance_split": True}},
    ):
        assert name(**ignored) == first
    others = [
        name(tune={"samples": 2}),
        name(tune={"search": "grid"}),
        name(tune={"num_steps": [1, 2]}),
        name(seed=5),
        name(sampling={"precision": "bfloat16"}),
        name(subjects=("a",)),
        name(content="abd"),
        name(generate={"tasks": [{"name": "x", "observed": [0], "targets": [1]}]}),
    ]
    (tmp_path / "ema-0.9.safetensors").write_bytes(b"other weights")
    others.append(name())
    assert len({first, *others}) == len(others) + 1
