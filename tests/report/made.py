"""A study, its predictions and their evaluation, made of arrays: no model, no Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.evaluate.calibration import calibration
from sadm_ray.evaluate.evaluation_job import Evaluation
from sadm_ray.evaluate.example_frames import Picture
from sadm_ray.evaluate.metrics import psnr
from sadm_ray.evaluate.score_tables import CALIBRATION_COLUMNS, COPY_LAST, ESTIMATE, SAMPLE, TEMPORAL_COLUMNS, summarise
from sadm_ray.generate.generation_record import PREDICTIONS, write_record
from sadm_ray.storage import Storage
from tests.data.studies import made_row, write_study

SUBJECTS = ("anna", "ben", "cleo", "dora")
TASKS: Mapping[str, tuple[Sequence[int], Sequence[int]]] = {"future": ([0], [3]), "missing": ([0, 3], [1, 2])}
TIMES = (0.0, 0.2, 0.3, 1.0)
SAMPLES = 3


@dataclass(frozen=True)
class Made:
    """The results of a run that its report needs."""

    study: Study
    predictions: Path
    evaluation: Evaluation


def true_frames(shape: tuple[int, int, int]) -> np.ndarray:
    """A bright corner above on the left, and a box whose brightness follows the time and the slice: t d h w."""
    d, h, w = shape
    frames = np.full((4, d, h, w), 0.2, dtype=np.float32)
    frames[:, :, : h // 4, : w // 4] = 0.95
    for slot, time in enumerate(TIMES):
        for z in range(d):
            frames[slot, z, h // 2 :, w // 2 :] = 0.3 + 0.4 * time + 0.2 * z / d
    return frames


def make_run(folder: Path, shape: tuple[int, int, int] = (4, 16, 16), pictures: Sequence[Picture] = ()) -> Made:
    """Four subjects, each a little worse predicted than the one before, in two tasks; every number follows the data."""
    rng = np.random.default_rng(0)
    truth = true_frames(shape)
    noise = rng.normal(0, 0.02, truth.shape).astype(np.float32)  # incompressible, as of scans
    frames = (truth + noise).clip(0, 1).astype(np.float16)
    rows = [made_row(name, frames, times=TIMES) for name in SUBJECTS]
    study = write_study(folder / "shards", rows, {"train": (), "test": SUBJECTS})
    scores, spreads, changes = [], [], []
    for number, subject in enumerate(SUBJECTS):
        record = []
        for task, (observed, targets) in TASKS.items():
            for frame in targets:
                error = 0.02 * (1 + number)
                drawn = rng.normal(frames[frame], error, (SAMPLES, *shape)).clip(0, 1).astype("<f2")
                key = {"subject": subject, "task": task, "frame": frame, "time": TIMES[frame]}
                estimate = drawn.mean(axis=0)
                packed = {"samples": drawn.tobytes(), "estimate": estimate.tobytes(), "shape": [SAMPLES, 1, *shape]}
                record.append({**key, "observed": observed, "files": [], "error": "", **packed})
                last = frames[max(slot for slot in observed if slot < frame)]
                volumes = {COPY_LAST: last, ESTIMATE: estimate, SAMPLE: drawn[0], f"mean of {SAMPLES}": estimate}
                scores += [
                    {**key, "method": name, "psnr": psnr(frames[frame], volume), "psnr_changed": 20.0, "error": ""}
                    for name, volume in volumes.items()
                ]
                scores_of_spread = calibration(frames[frame].ravel(), drawn.reshape(SAMPLES, -1))
                spreads.append({**key, "samples": SAMPLES, **scores_of_spread})
        write_record(Storage(str(folder)), subject, "key", record)
        changes.append({"subject": subject, "task": "missing", "method": SAMPLE, "frames": 2, "flicker": 0.01})
    metrics = pd.DataFrame(scores)
    found = Evaluation(
        metrics,
        summarise(metrics),
        tuple(pictures),
        (),
        calibration=pd.DataFrame(spreads, columns=CALIBRATION_COLUMNS),
        temporal=pd.DataFrame(changes, columns=TEMPORAL_COLUMNS).assign(difference_error=0.03),
    )
    return Made(study, folder / PREDICTIONS, found)
