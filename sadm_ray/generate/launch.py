"""The generation job: shards through a pool of actors, out come NIfTI files and a table of predictions."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow.dataset as pads
from ray.data import ActorPoolStrategy

from sadm_ray.config import SamplingSettings, Settings
from sadm_ray.data.study import Study, read_rows
from sadm_ray.generate.actor import GenerateActor, Job
from sadm_ray.progress import progress

PREDICTIONS = "predictions"


@dataclass(frozen=True)
class Generated:
    """What the job wrote.

    `volumes` counts the NIfTI files, `failures` gives the reason for each (subject, task) that has none.
    """

    folder: Path
    volumes: int
    failures: Mapping[tuple[str, str], str]


def generate_volumes(
    settings: Settings,
    study: Study,
    model: Path,
    out: Path,
    sampling: SamplingSettings,
    split: str = "test",
) -> Generated:
    """Put every task of `settings.generate` to every subject of `split`.

    Writes `out/<task>/sub-<subject>/*.nii.gz` with a JSON each, and `out/predictions/*.parquet` with the samples on the
    model's grid, for the evaluation.
    """
    wanted = settings.generate
    predictions = out / PREDICTIONS
    shutil.rmtree(predictions, ignore_errors=True)
    predictions.mkdir(parents=True)
    names = study.names(split)
    with progress("generate", len(names)) as reporter:
        job = Job(
            model,
            out,
            wanted.tasks,
            sampling,
            wanted.samples,
            settings.seed,
            study.time_unit,
            reporter,
            wanted.gpus_per_actor > 0,
        )
        blocks = max(wanted.actors, -(-len(names) // wanted.batch_size))
        answers = read_rows(study, split, blocks).map_batches(
            GenerateActor,
            fn_constructor_args=(job,),
            batch_size=wanted.batch_size,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=wanted.actors),
            num_gpus=wanted.gpus_per_actor or None,
        )
        answers.write_parquet(str(predictions))
    rows = pads.dataset(predictions).to_table(columns=["subject", "task", "files", "error"]).to_pylist()
    failures = {(row["subject"], row["task"]): row["error"] for row in rows if row["error"]}
    return Generated(out, sum(len(row["files"]) for row in rows), failures)
