"""Samples against the exact posterior: what a phantom's heart may look like at end-systole, seen at end-diastole.

    python -m benchmarks.posterior run.dir=/where/it/goes                          200 phantoms
    python -m benchmarks.posterior --subjects 50 run.dir=/where train.steps=100    a quick look

How strongly a phantom contracts is drawn apart from its anatomy, which is all that end-diastole shows. So the posterior
of the volume of its cavity at end-systole is known: the volume at end-diastole times (1 − contraction)², with the
contraction as it is drawn for every phantom. A model is trained on one study and asked about the phantoms of another.
Volumes are measured in images, of samples and of the truth alike. The settings are those of `configs/phantom.yaml`,
overridden by those on the command line.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage, stats

from benchmarks.figures import say
from sadm_ray import steps
from sadm_ray.cluster import ray_session
from sadm_ray.config import Settings, TaskSettings
from sadm_ray.config.settings_file import load_settings, with_values
from sadm_ray.data.phantom.heart import Anatomy, draw_heart, draw_motion
from sadm_ray.data.shards.prepared_study import Study, read_subject
from sadm_ray.evaluate.calibration import fair_crps
from sadm_ray.generate.draw_samples import draw, estimate, observe
from sadm_ray.generate.request import query_of_task, sample_seed
from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.pretrained import StoredModel

CONFIG = Path(__file__).parents[1] / "configs" / "phantom.yaml"
TASKS = (
    TaskSettings(name="ed-to-es", observed=(0,), targets=(-1,)),
    TaskSettings(name="three-to-es", observed=(0, 3, 5), targets=(-1,)),
)
DRAWS = 2000
"""Of the exact posterior."""


@dataclass(frozen=True)
class Volumes:
    """Of the cavity at end-systole, in voxels: measured in the true image, in that of the estimate and in the samples';
    and draws of the exact posterior from end-diastole, on the scale of the true image's."""

    truth: float
    copied: float
    estimate: float
    samples: Float[np.ndarray, " s"]
    exact: Float[np.ndarray, " n"]


def cavity_volume(image: Float[np.ndarray, "d h w"], first: Float[np.ndarray, "d h w"], anatomy: Anatomy) -> float:
    """Voxels of the left cavity in an image, those on its border in part.

    Args:
        image: to be measured.
        first: the same phantom at end-diastole, which gives the intensities of blood and muscle.
        anatomy: where the heart lies.
    """
    inside, muscle = _at_end_diastole(anatomy, first.shape)
    share = []
    for slice_, known, blood_here, muscle_here in zip(image, first, inside, muscle, strict=True):
        blood, wall = known[blood_here].mean(), known[muscle_here].mean()
        filled = np.clip((slice_ - wall) / (blood - wall), 0.0, 1.0)
        parts, _ = ndimage.label(filled > 0.5)
        cavity = parts == _at_centre(parts, blood_here)
        share.append(filled[ndimage.binary_dilation(cavity)].sum() if parts.any() else 0.0)
    return float(np.sum(share))


def _at_centre(parts: np.ndarray, inside: Bool[np.ndarray, "h w"]) -> int:
    """The part that fills most of the inner cavity; −1 where none is there."""
    here = parts[inside]
    return int(np.bincount(here[here > 0]).argmax()) if (here > 0).any() else -1


def _at_end_diastole(anatomy: Anatomy, shape: tuple[int, ...]) -> tuple[Bool[np.ndarray, "d h w"], ...]:
    """Voxels well inside the cavity and those in the middle of the muscle."""
    depth, height, width = shape
    y, x = ((np.arange(size) + 0.5) * 2 / size - 1 for size in (height, width))
    dy, dx = y[:, None] - anatomy.centre[0], x[None] - anatomy.centre[1]
    along = np.cos(anatomy.tilt) * dx + np.sin(anatomy.tilt) * dy
    across = np.cos(anatomy.tilt) * dy - np.sin(anatomy.tilt) * dx
    radius = np.hypot(along * np.sqrt(anatomy.stretch), across / np.sqrt(anatomy.stretch))[None]
    size = np.sqrt(1 - (anatomy.taper * np.linspace(0, 1, depth)) ** 2)[:, None, None]
    inner, middle = anatomy.cavity * size, (anatomy.cavity + 0.5 * anatomy.wall) * size
    return radius < 0.7 * inner, np.abs(radius - middle) < max(0.2 * anatomy.wall, 0.7 / width)


def asked(
    model: SequenceModel, study: Study, task: TaskSettings, settings: Settings, samples: int
) -> Iterator[Volumes]:
    """Each phantom of a study in turn."""
    sampling, rng = settings.sampling, np.random.default_rng(0)
    contractions = np.array([draw_motion(rng).contraction for _ in range(DRAWS)])
    for name in sorted(name for names in study.subjects.values() for name in names):
        row = read_subject(study, name)
        anatomy, motion = draw_heart([settings.seed, int(name.removeprefix("patient"))])
        query = query_of_task(task, row["present"], row["times"])
        encoded = observe(model, [row], [query], sampling.precision)
        seeds = [[sample_seed(settings.seed, name, task.name, each) for each in range(samples)]]
        drawn = draw(model, encoded, [query], seeds, sampling)[0, 0, :, 0]
        frames = row["frames"][:, 0].astype(np.float32)
        mean = estimate(model, encoded, [query], sampling)[0, 0, 0]
        truth, copied, of_mean, *of_samples = (
            cavity_volume(each, frames[0], anatomy) for each in (frames[-1], frames[query.observed][-1], mean, *drawn)
        )
        exact = truth * np.square((1 - contractions) / (1 - motion.contraction))
        yield Volumes(truth, copied, of_mean, np.array(of_samples), exact)


def figures(found: list[Volumes], seed: int = 0) -> dict[str, float]:
    """The p-value of the Kolmogorov–Smirnov test that ranks of the truth among the samples are uniform; CRPS of the
    samples and of the exact posterior, and absolute errors, as means over phantoms in voxels."""
    rng = np.random.default_rng(seed)
    ranks = [(np.sum(each.samples < each.truth) + rng.random()) / (len(each.samples) + 1) for each in found]
    return {
        "uniform, p": float(stats.kstest(ranks, "uniform").pvalue),
        "mean rank": float(np.mean(ranks)),
        "crps": float(np.mean([_crps(each.truth, each.samples) for each in found])),
        "exact crps": float(np.mean([_crps(each.truth, each.exact) for each in found])),
        "error of the estimate": float(np.mean([abs(each.estimate - each.truth) for each in found])),
        "error of copy-last": float(np.mean([abs(each.copied - each.truth) for each in found])),
    }


def _crps(truth: float, draws: Float[np.ndarray, " n"]) -> float:
    return fair_crps(np.array([truth]), draws[:, None])


def main() -> None:
    """Print the figures of both tasks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=200, help="new phantoms")
    parser.add_argument("--samples", type=int, default=19, help="of each; 19: twenty ranks")
    parser.add_argument("settings", nargs="*", help="key=value, as for sadm-ray")
    options = parser.parse_args()
    settings = load_settings(CONFIG, ["run.name=posterior", *options.settings])
    new: dict[str, Any] = {"run.name": "posterior-new", "phantom.subjects": options.subjects, "seed": settings.seed + 1}
    others = with_values(settings, new)
    with ray_session(settings):
        steps.prepare(settings)
        steps.train(settings)
        if settings.calibrate.folds or settings.data.split.val:
            steps.calibrate(settings)
        study = steps.prepare(others)
    stored = StoredModel.read(settings.run_dir / "model", settings.sampling.ema).recalibrated(settings.sampling)
    model = stored.build()
    for task in TASKS:
        print_figures(task.name, figures(list(asked(model, study, task, others, options.samples))))


def print_figures(task: str, found: dict[str, float]) -> None:
    """One line a figure."""
    exact = task == TASKS[0].name
    say(f"{task}: ranks of the truth are uniform, p", found["uniform, p"], "1", "higher", 0.05 if exact else None)
    say(f"{task}: mean rank of the truth", found["mean rank"], "1", "higher", note="0.5 is ideal")
    say(f"{task}: CRPS of the cavity's volume", found["crps"], "voxels", "lower")
    say(f"{task}: absolute error of the estimate", found["error of the estimate"], "voxels", "lower")
    say(f"{task}: absolute error of copy-last", found["error of copy-last"], "voxels", "lower")
    if exact:
        ratio = found["crps"] / found["exact crps"]
        say(f"{task}: CRPS to the exact posterior's", ratio, "1", "lower", 1.1)
    else:
        ratio = found["crps"] / found["error of the estimate"]
        say(f"{task}: CRPS to the absolute error of the estimate", ratio, "1", "lower", 0.75)


if __name__ == "__main__":
    main()
