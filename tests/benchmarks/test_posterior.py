"""The exact posterior of the phantom: what draws of it score, and whether volumes are measured right."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import posterior
from benchmarks.posterior import TASKS, Volumes, cavity_volume, figures
from sadm_ray.data.phantom.heart import Motion, draw_heart, render_heart

SHAPE = (4, 32, 32)


def at_end_systole(number: int, contraction: float) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last frame of a systole."""
    anatomy, _ = draw_heart([0, number])
    frames = render_heart(anatomy, Motion(contraction, ed=0, es=1, frames=2, onset=1.0), SHAPE)
    return frames[0], frames[1]


@pytest.mark.parametrize("number", range(4))
def test_the_cavity_shrinks_by_the_square_of_its_radius(number: int) -> None:
    anatomy, _ = draw_heart([0, number])
    for contraction in (0.15, 0.3, 0.45):
        first, last = at_end_systole(number, contraction)
        share = cavity_volume(last, first, anatomy) / cavity_volume(first, first, anatomy)
        assert share == pytest.approx((1 - contraction) ** 2, abs=0.05)


def study(draws: str, phantoms: int = 200) -> list[Volumes]:
    """Phantoms whose samples are draws of the exact posterior, of a narrower one, or the mean of it alone."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(phantoms):
        first = rng.uniform(300, 500)
        truth, *samples = first * (1 - rng.uniform(0.15, 0.6, 20)) ** 2
        exact = first * (1 - rng.uniform(0.15, 0.6, 2000)) ** 2
        mean = exact.mean()
        narrower = {"exact": samples, "narrow": mean + 0.2 * (np.array(samples) - mean), "same": np.full(19, mean)}
        found.append(Volumes(truth, first, mean, np.array(narrower[draws]), exact))
    return found


def test_draws_of_the_exact_posterior_pass_and_others_do_not() -> None:
    exact, narrow, same = (figures(study(draws)) for draws in ("exact", "narrow", "same"))
    assert exact["uniform, p"] > 0.05
    assert narrow["uniform, p"] < 0.01
    assert same["uniform, p"] < 0.01
    assert exact["crps"] / exact["exact crps"] == pytest.approx(1.0, abs=0.03)
    assert narrow["crps"] / narrow["exact crps"] > 1.1
    assert same["crps"] == pytest.approx(same["error of the estimate"])
    assert same["error of copy-last"] > same["error of the estimate"]


@pytest.mark.slow
def test_the_whole_benchmark_at_a_tiny_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = [
        "phantom.subjects=8", "phantom.shape=[4,32,32]", "data.shape=[4,16,16]", "data.split.val=0", "train.steps=2",
        "train.batch_size=2", "train.workers=1", "train.warmup_steps=1", f"run.dir={tmp_path}",
    ]  # fmt: skip
    monkeypatch.setattr("sys.argv", ["posterior", "--subjects", "3", "--samples", "2", *tiny])
    posterior.main()
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert {line["figure"].partition(":")[0] for line in printed} == {task.name for task in TASKS}
    assert all(np.isfinite(line["value"]) for line in printed)
