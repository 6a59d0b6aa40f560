"""What a treatment changes, asked of a phantom whose subjects are also simulated under the other treatment.

    python -m benchmarks.treatment run.dir=/where/it/goes                                  100 unseen subjects
    python -m benchmarks.treatment run.dir=… phantom.subjects=24 train.steps=4             a try in a minute

Every second heart is treated, which multiplies its contraction by `phantom.treatment`. How strongly a heart contracts
does not show at end-diastole, which is all that the model observes. Each test subject is asked for its end-systole
under both treatments from the same noise. The truth is the difference of the volumes of the left cavity, computed from
what was drawn for this heart: the same contraction, treated and not. Finished runs are not repeated.

`sadm-ray` writes two intervals of a difference: that of the samples, and that multiplied by the factor which the
volumes of the validation subjects need, each under its own treatment. Nobody's other treatment is needed for that.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from benchmarks.figures import say
from sadm_ray import steps
from sadm_ray.cluster import ray_session
from sadm_ray.config import Settings
from sadm_ray.config.settings_file import load_settings, with_values
from sadm_ray.data.phantom import write_phantom
from sadm_ray.data.phantom.heart import Anatomy, Motion, draw_heart, treated
from sadm_ray.generate.paired_differences import DIFFERENCES
from sadm_ray.generate.structure_volumes import SUMMARY, VOLUMES, interval

CAVITY = ("LV cavity", 3)
"""The structure, and its value in ACDC's label maps."""
SETTINGS = (
    "run.name=treatment", "phantom.subjects=400", "phantom.treatment=0.5", "phantom.shape=[4,32,32]",
    "data.shape=[4,32,32]", "data.frames=4", "data.split.method=balanced", "data.split.test=0.25", "data.split.val=0.1",
    "model.covariates=[{name: treatment, of: visit, planned: true, levels: [A, B]}]",
    "model.prior={widths: [32, 48], blocks: 1}", "model.denoiser.widths=[24, 32]",
    "train.steps=1200", "train.workers=1", "train.single_frame=0.5", "train.validation.loss_every=400",
    "train.validation.generate_every=0", "generate.samples=16", "generate.actors=1", "generate.estimates=[estimate]",
    "generate.tasks=[{name: ed-to-es, observed: [0], targets: [-1]}]",
)  # fmt: skip


@dataclass(frozen=True)
class Heart:
    """A phantom as drawn, before any treatment, and the size of its voxels in ml."""

    anatomy: Anatomy
    motion: Motion
    voxel_ml: float

    @classmethod
    def of(cls, subject: Path, seed: int) -> Heart:
        """That of a patient's folder."""
        zooms = nib.load(subject / f"{subject.name}_4d.nii.gz").header.get_zooms()[:3]
        anatomy, motion = draw_heart([seed, int(subject.name.removeprefix("patient"))])
        return cls(anatomy, motion, float(np.prod(zooms)) / 1000)

    def cavity_ml(self, shape: tuple[int, int, int], factor: float) -> float:
        """The volume of the left cavity at end-systole under a treatment, to the ideal circle."""
        size = np.sqrt(1 - (self.anatomy.taper * np.linspace(0, 1, shape[0])) ** 2)
        radius = self.anatomy.cavity * size * (1 - treated(self.motion, factor).contraction)
        return float((np.pi * radius**2).sum()) * shape[1] * shape[2] / 4 * self.voxel_ml


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="key=value, as for sadm-ray")
    settings = load_settings(None, [*SETTINGS, *parser.parse_args().settings])
    root = settings.run_dir / "hearts"
    write_phantom(root, settings.phantom, settings.seed)
    settings = with_values(settings, {"data.root": str(root)})
    with ray_session(settings):
        study = steps.prepare(settings)
        start = time.monotonic()
        steps.train(settings)
        say("minutes of training", (time.monotonic() - start) / 60, "min", "lower")
        steps.calibrate(settings)
        hearts = {name: Heart.of(root / name, settings.seed) for name in study.names("test")}
        out = _asked(settings, list(hearts))
    _say_figures(settings, hearts, out)


def _asked(settings: Settings, subjects: list[str]) -> Path:
    """Ask these subjects for end-systole from end-diastole under both treatments; returns the folder."""
    wanted, out = settings.run_dir / "wanted.csv", settings.run_dir / "asked"
    lines = ["subject,times,observed,name", *(f"{name},1,0,es" for name in subjects)]
    wanted.write_text("\n".join(lines) + "\n", encoding="utf-8")
    request = {"file": str(wanted), "out": str(out), "given": ["treatment=A", "treatment=B"], "replace": True}
    generated = steps.generate(with_values(settings, {f"generate.{key}": value for key, value in request.items()}))
    if generated.failures:
        raise SystemExit(f"{len(generated.failures)} requests failed, such as {next(iter(generated.failures.items()))}")
    return out


def _table(out: Path, name: str) -> pd.DataFrame:
    """The rows of the left cavity."""
    return pd.read_csv(out / name, dtype={"subject": str}).query(f"structure == '{CAVITY[0]}'")


def _say_figures(settings: Settings, hearts: dict[str, Heart], out: Path) -> None:
    level, factor, shape = settings.generate.level, float(settings.phantom.treatment or 1.0), settings.phantom.shape
    found = _table(out, DIFFERENCES).set_index("subject").loc[list(hearts)]
    truth = pd.Series(
        {name: each.cavity_ml(shape, factor) - each.cavity_ml(shape, 1.0) for name, each in hearts.items()}
    )
    say("subjects asked under both treatments", len(found), "1", "higher")
    say("true effect, mean", truth.mean(), "ml", "higher")
    say("true effect, deviation between subjects", truth.std(), "ml", "higher")
    for kind, words in (("", "of the samples"), ("corrected_", "corrected")):
        low, high = found[f"{kind}low_ml"], found[f"{kind}high_ml"]
        held = float(((low <= truth) & (truth <= high)).mean())
        say(f"paired intervals of {level:.0%}, {words}, that hold the true effect", held, "1", "higher", 0.85)
        say(f"width of the paired interval, {words}, mean", (high - low).mean(), "ml", "lower")
    apart = _unpaired(out, list(hearts), level)
    say("width without pairing, mean", (apart["high"] - apart["low"]).mean(), "ml", "lower")
    apart_held = float(((apart["low"] <= truth) & (truth <= apart["high"])).mean())
    say("intervals without pairing that hold the true effect", apart_held, "1", "higher")
    say("predicted effect (median), mean", found["median_ml"].mean(), "ml", "higher")
    say("error of the predicted effect, mean", (found["median_ml"] - truth).abs().mean(), "ml", "lower")
    say("error of no effect, which copy-last and a model without treatments say", truth.abs().mean(), "ml", "lower")
    of_volumes = _table(out, SUMMARY).query("origin == 'generated'")
    for arm, its in (("A", 1.0), ("B", factor)):
        rows = of_volumes[of_volumes["task"] == f"es treatment={arm}"].set_index("subject").loc[list(hearts)]
        volume = pd.Series({name: each.cavity_ml(shape, its) for name, each in hearts.items()})
        inside = float(((rows["low_ml"] <= volume) & (volume <= rows["high_ml"])).mean())
        say(f"{arm}: intervals of the volume that hold it", inside, "1", "higher")
        say(f"{arm}: error of the volume, mean", (rows["estimate_ml"] - volume).abs().mean(), "ml", "lower")
        copied = pd.Series({name: each.cavity_ml(shape, 0.0) for name, each in hearts.items()})
        say(f"{arm}: error of copy-last's volume, mean", (copied - volume).abs().mean(), "ml", "lower")


def _unpaired(out: Path, subjects: list[str], level: float) -> pd.DataFrame:
    """The intervals of the same samples, where each is compared with another one's noise."""
    volumes = _table(out, VOLUMES).query("origin == 'generated' and sample > 0")
    rows = []
    for name in subjects:
        its = volumes[volumes["subject"] == name].sort_values("sample")
        first, second = (its[its["task"] == f"es treatment={arm}"]["ml"].to_numpy() for arm in "AB")
        rows.append(interval(np.roll(second, 1) - first, level, least=-math.inf))
    return pd.DataFrame(rows, index=subjects, columns=["low", "high"])


if __name__ == "__main__":
    main()
