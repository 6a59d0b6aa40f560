"""The memory of generating large volumes: what an actor's work takes at its peak, above a process with the model.

    python benchmarks/generation_memory.py prepare FOLDER --config FILE --shape D H W
    python benchmarks/generation_memory.py generate FOLDER OUT --samples N --targets M

Run as a file by `benchmarks.jobs`, with PYTHONPATH naming the checkout that is measured: it imports nothing of
`benchmarks`, which would be that checkout's.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from torch.nn import functional as F

from sadm_ray.config import Settings, TaskSettings
from sadm_ray.config.settings_file import dump_settings, load_settings
from sadm_ray.data.normalise.intensity import encode
from sadm_ray.data.normalise.spatial import SpatialTransform
from sadm_ray.data.phantom.heart import draw_anatomy, draw_motion, render_heart
from sadm_ray.data.shards.prepared_study import Study, read_study, write_row_locations
from sadm_ray.data.shards.shard_writer import to_parquet
from sadm_ray.data.shards.subject_row import row_checksum
from sadm_ray.generate.actor_job import GenerationJob
from sadm_ray.generate.generation_actor import run_subject_jobs
from sadm_ray.generate.generation_plan import SubjectJob
from sadm_ray.generate.generation_record import read_record
from sadm_ray.generate.request import Request
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.model.pretrained import StoredModel
from sadm_ray.model.registry import build_model
from sadm_ray.storage import Storage

NAME, SLOTS = "large", 4
OBSERVED, TARGETS = (0, 3), (1, 2)
"""Of the slots: between two scans, registration and every network take part."""


def prepare(folder: Path, config: Path, shape: tuple[int, int, int]) -> None:
    """A study of one phantom of this size, and a model of the settings with random weights, none of them zero."""
    settings = load_settings(config)
    rng = np.random.default_rng(0)
    coarse = render_heart(draw_anatomy(rng), draw_motion(rng), (8, 64, 64))
    frames = F.interpolate(torch.from_numpy(coarse[2 : 2 + SLOTS, None]), size=shape, mode="trilinear").clamp(0.0, 1.0)
    data, stored = encode(frames[:, 0].numpy(), "float16")
    affine = np.eye(4)
    grid = SpatialTransform.plan(
        np.zeros(shape, np.float32),
        affine,
        (1.0, 1.0, 1.0),
        shape=shape,
        target_spacing=None,
        orientation="native",
        crop="none",
    )
    row = {
        "subject": NAME,
        "group": "",
        "frames": data,
        "dtype": "float16",
        "stored": list(stored),
        "shape": list(shape),
        "present": [True] * SLOTS,
        "times": np.linspace(0, 1, SLOTS).tolist(),
        "intensity": [0.0, 1.0],
        "grid": grid.to_json(),
        "affine": affine.ravel().tolist(),
        "spacing": [1.0, 1.0, 1.0],
        "sources": json.dumps([None] * SLOTS),
        "covariates": json.dumps({"subject": {}, "visits": [{}] * SLOTS}),
        "squares": 1.0,
        "differences": 1,
        "key": NAME,
    }
    row["checksum"] = row_checksum(row)
    shards = folder / "shards"
    Storage(str(shards)).write("part.parquet", to_parquet([row], {}))
    facts = {**{key: row[key] for key in ("subject", "key", "checksum")}, "part": "part.parquet", "row": 0}
    Study(
        location=str(shards),
        digest=NAME,
        preparation=NAME,
        content=NAME,
        frames=SLOTS,
        shape=shape,
        time_unit="cycle",
        subjects={"test": (NAME,)},
        difference_scale=0.1,
        places=write_row_locations(str(shards), [facts]),
    ).write()
    torch.manual_seed(0)
    networks = settings.model.model_copy(update={"difference_scale": 0.1})
    model = build_model(ModelConfig(shape=shape, model=networks, diffusion=settings.diffusion))
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    model.save_pretrained(folder / "model")
    (folder / "settings.yaml").write_text(dump_settings(settings))


def generate(folder: Path, out: Path, samples: int, targets: int) -> dict[str, float]:
    """Generate as an actor does; returns seconds, and the peak above what the process held with its model (GB)."""
    settings: Settings = load_settings(folder / "settings.yaml")
    study, stored = read_study(str(folder / "shards")), StoredModel.read(folder / "model")
    sampling = settings.sampling.model_copy(update={"num_steps": 2})  # more take more time, not more memory
    job = GenerationJob(
        study, (stored,), (stored.digest,), str(out), sampling,
        settings.generate.estimates, False, True, settings.generate.batch_size, "cpu",
    )  # fmt: skip
    task = TaskSettings(name="missing", observed=OBSERVED, targets=TARGETS[:targets])
    model = stored.build()
    before, start = psutil.Process().memory_info().rss, time.perf_counter()
    run_subject_jobs([SubjectJob(NAME, (Request("missing", samples, 0, task=task),), NAME)], job)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    del model
    record = read_record(Storage(str(out)), NAME)
    if record is None or record.failed:
        raise SystemExit(f"nothing was generated: {record}")
    return {"seconds": time.perf_counter() - start, "before": before / 1e9, "peak": (peak - before) / 1e9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    first = parts.add_parser("prepare")
    first.add_argument("folder", type=Path)
    first.add_argument("--config", type=Path, required=True)
    first.add_argument("--shape", type=int, nargs=3, required=True)
    second = parts.add_parser("generate")
    second.add_argument("folder", type=Path)
    second.add_argument("out", type=Path)
    second.add_argument("--samples", type=int, required=True)
    second.add_argument("--targets", type=int, required=True)
    options = parser.parse_args()
    if options.part == "prepare":
        prepare(options.folder, options.config, tuple(options.shape))
    else:
        print(json.dumps(generate(options.folder, options.out, options.samples, options.targets)))


if __name__ == "__main__":
    main()
