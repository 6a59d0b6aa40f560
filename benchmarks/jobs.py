"""What the jobs cost: generation and sweeps on Ray against a bare loop, and the memory of large volumes.

    python -m benchmarks.jobs                       all parts, one after another (about 30 minutes on 2 cores)
    python -m benchmarks.jobs --part generation     one: generation, memory or sweep
    python -m benchmarks.jobs --part memory --beside FOLDER     the same figures of another checkout in the same run

The study is the phantom, the model that of `configs/phantom.yaml` with its initial weights: training does not change
the cost of a network. Let nothing else run: two actors need both cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil
import torch

from benchmarks.figures import say
from sadm_ray.cluster import WORKER_ENVIRONMENT, ray_session
from sadm_ray.config import SamplingSettings, Settings
from sadm_ray.config.settings_file import dump_settings, load_settings
from sadm_ray.data.shards.prepared_study import read_study, read_subject
from sadm_ray.generate.bids_names import SubjectNames, bare_label
from sadm_ray.generate.draw_samples import draw, observe
from sadm_ray.generate.request import sample_seed
from sadm_ray.generate.volume_writer import SubjectWriter
from sadm_ray.model.pretrained import StoredModel, load_model
from sadm_ray.model.registry import build_model
from sadm_ray.storage import Storage

_SUBJECTS = 160
_TRIALS = 12
_LARGE = (64, 256, 256)


def _settings(folder: Path) -> Settings:
    tree: dict[str, Any] = {
        "run": {"name": "jobs", "dir": str(folder)},
        "phantom": {"subjects": _SUBJECTS},
        "generate": {"split": "all", "out": str(folder / "out")},
        "tune": {"trials": _TRIALS, "concurrent": 1, "subjects": 16, "reduction": None, "num_steps": [8]},
    }
    return Settings.model_validate(tree)


def _prepare(folder: Path) -> Settings:
    """A prepared study and a model."""
    from sadm_ray import steps
    from sadm_ray.train.trainer import model_config

    settings = _settings(folder)
    study = steps.prepare(settings)
    torch.manual_seed(0)
    model = build_model(model_config(settings, study))
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    model.save_pretrained(settings.run_dir / "model")
    return settings


def generation(folder: Path) -> None:
    """A bare loop, then one actor and two, over the same subjects; then the growth of an actor's memory."""
    settings = _prepare(folder)
    file = folder / "settings.yaml"
    file.write_text(dump_settings(settings))
    seconds_of = {"bare": float(_run_in_process("--bare", str(file)))}
    memory: list[float] = []
    for actors in (1, 2):
        shutil.rmtree(str(settings.generate.out), ignore_errors=True)
        output = _run_in_process("--actors", str(actors), str(file)).split()
        seconds_of[f"{actors}"] = float(output[0])
        if actors == 1:
            memory = [float(value) for value in output[1:]]
    print({name: round(seconds, 1) for name, seconds in seconds_of.items()}, "s", file=sys.stderr)
    say("generation: subjects/s of a bare loop", _SUBJECTS / seconds_of["bare"], "1/s", "higher")
    say("generation: one actor over a bare loop", seconds_of["bare"] / seconds_of["1"], "1", "higher", 0.85)
    say("generation: two actors over a bare loop", seconds_of["bare"] / seconds_of["2"], "1", "higher", 1.7)
    fifth = len(memory) // 5
    early, late = max(memory[fifth : 2 * fifth]), max(memory[-fifth:])
    say("generation: an actor's memory, last fifth over second fifth", late / early, "1", "lower", 1.1)
    say("generation: an actor's memory", late, "GB", "lower")


def bare(settings: Settings) -> float:
    """Seconds of reading, drawing and writing in a plain loop; the model is loaded before."""
    torch.set_num_threads(1)
    study, wanted = read_study(str(settings.run_dir / "shards")), settings.generate
    model, out = load_model(settings.run_dir / "model"), Storage(str(wanted.out))
    from sadm_ray.generate.request import query_of_task

    start = time.perf_counter()
    for name in sorted(name for names in study.subjects.values() for name in names):
        row = read_subject(study, name)
        for task in wanted.tasks:
            query = query_of_task(task, row["present"], row["times"])
            seeds = [sample_seed(settings.seed, name, task.name, sample) for sample in range(wanted.samples)]
            encoded = observe(model, [row], [query])
            samples = draw(model, encoded, [query], [seeds], settings.sampling)[0]
            writer = SubjectWriter(out, SubjectNames(row, bare_label(name), bare_label(task.name)), row)
            scanned = [(float(row["times"][slot]), row["frames"][slot, 0]) for slot in np.flatnonzero(query.observed)]
            volumes = samples[:, :, 0].swapaxes(0, 1)
            writer.write_cine(
                scanned, query.target_times.tolist(), volumes, wanted.estimates, {"Subject": name, "Task": task.name}
            )
    return time.perf_counter() - start


def on_actors(settings: Settings, actors: int) -> tuple[float, list[float]]:
    """Seconds of the whole job, with Ray running but not its actors; and an actor's memory (GB) over time."""
    from sadm_ray.generate.generation_job import generate_volumes

    settings = settings.model_copy(update={"generate": settings.generate.model_copy(update={"actors": actors})})
    study, memory, ended = read_study(str(settings.run_dir / "shards")), [], threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            for process in psutil.Process().children(recursive=True):
                try:
                    if "MapWorker" in " ".join(process.cmdline()):
                        memory.append(process.memory_info().rss / 1e9)
                        break
                except psutil.Error:
                    continue

    with ray_session(settings):
        threading.Thread(target=watch, daemon=True).start()
        start = time.perf_counter()
        generate_volumes(
            settings,
            study,
            [StoredModel.read(settings.run_dir / "model")],
            str(settings.generate.out),
            settings.sampling,
        )
        seconds = time.perf_counter() - start
        ended.set()
    return seconds, memory


def large_volumes(folder: Path, beside: Path | None = None, config: str = "phantom") -> None:
    """What an actor takes at its peak for large volumes (`benchmarks.generation_memory`), in a process each.

    Args:
        beside: the folder of another checkout. It generates a single sample only: four may not fit.
        config: whose model it is, at this size of volumes.
    """
    here, name = Path(__file__).parents[1], "x".join(str(size) for size in _LARGE)
    _generation_memory(here, "prepare", folder, "--config", here / f"configs/{config}.yaml", "--shape", *_LARGE)
    cases = [(here, "", 1, 1), (here, "", 4, 2), (here, "", 1, 2)]
    cases[1:1] = [] if beside is None else [(beside.resolve(), "beside: ", 1, 1)]
    peaks: dict[tuple[str, int, int], float] = {}
    for checkout, label, samples, targets in cases:
        out = folder / f"{label}{samples}-{targets}"
        wanted = ("--samples", samples, "--targets", targets)
        facts = json.loads(_generation_memory(checkout, "generate", folder, out, *wanted))
        print({"checkout": str(checkout), "samples": samples, "targets": targets, **facts}, file=sys.stderr)
        peaks[label, samples, targets] = facts["peak"]
        what = f"memory: {label}{config} at {name}, {samples} samples of {targets} targets, above the process"
        say(what, facts["peak"], "GB", "lower", 1.5 if samples == 1 and not label else None)
    more = (peaks["", 4, 2] - peaks["", 1, 2]) / 3
    say(f"memory: {config} at {name}, each further sample of 2 targets", more, "GB", "lower", 0.25)
    if beside is not None:
        ours, theirs = (_voxels(folder / f"{label}1-1") for label in ("", "beside: "))
        say("memory: largest difference of a voxel to the other checkout", abs(ours - theirs).max(), "1", "lower", 1e-5)


def _generation_memory(checkout: Path, *arguments: object) -> str:
    """Run the file of that name on this checkout, with the environment of the workers."""
    script = Path(__file__).with_name("generation_memory.py")
    environment = os.environ | WORKER_ENVIRONMENT | {"PYTHONPATH": str(checkout)}
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603


def _voxels(out: Path) -> np.ndarray:
    """The only generated volume there, of intensities in 0 to 1, also where a cine has it among observed frames."""
    (file,) = out.rglob("*.nii.gz")
    sidecar = json.loads(file.with_name(file.name.replace(".nii.gz", ".json")).read_text())
    voxels = nib.load(file).get_fdata(dtype=np.float32)
    return voxels[..., sidecar["Generated"].index(True)] if "Generated" in sidecar else voxels


def sweep(folder: Path) -> None:
    """Trials on Ray Tune, one at a time, and the same settings on the same subjects in a bare loop."""
    settings = _prepare(folder)
    file, points = folder / "settings.yaml", folder / "points.json"
    file.write_text(dump_settings(settings))
    swept = float(_run_in_process("--sweep", str(file), str(points)))
    alone = float(_run_in_process("--evaluate", str(file), str(points)))
    trials = len(json.loads(points.read_text()))
    print({"sweep": round(swept, 1), "bare": round(alone, 1), "trials": trials}, file=sys.stderr)
    say("sweep: seconds of a trial in a bare loop", alone / trials, "s", "lower")
    say("sweep: overhead of a trial over its bare evaluation", swept / alone - 1, "1", "lower", 0.15)


def on_tune(settings: Settings, points: Path) -> float:
    """Seconds of the whole sweep, with Ray running; the settings of its trials are written to `points`."""
    from sadm_ray.tracking import tracked_step
    from sadm_ray.tune.sampling_sweep import tune_sampling

    study = read_study(str(settings.run_dir / "shards"))
    with tracked_step(settings, "tune") as tracked, ray_session(settings):
        start = time.perf_counter()
        swept = tune_sampling(settings, study, settings.run_dir / "model", settings.run_dir / "sweeps", tracked)
        seconds = time.perf_counter() - start
    names = [*SamplingSettings.model_fields]
    tried = [{key: value for key, value in row.items() if key in names} for row in swept.trials.to_dict("records")]
    points.write_text(json.dumps([SamplingSettings.model_validate(row).model_dump(mode="json") for row in tried]))
    return seconds


def evaluations(settings: Settings, points: Path) -> float:
    """Seconds of the same evaluations in a plain loop."""
    from sadm_ray.evaluate.metrics import changed_region
    from sadm_ray.evaluate.sampling_quality import generate_frames, query_of
    from sadm_ray.evaluate.sweep_objectives import score_subject, summarise

    torch.set_num_threads(1)
    study, model = read_study(str(settings.run_dir / "shards")), load_model(settings.run_dir / "model")
    rows = [read_subject(study, name) for name in study.names("val")[: settings.tune.subjects]]
    encoded_by_key: dict[tuple[str, str], Any] = {}
    start = time.perf_counter()
    for point in json.loads(points.read_text()):
        sampling, scores = SamplingSettings.model_validate(point), []
        for row in rows:
            region, frames = changed_region(row["frames"][:, 0], row["present"]), []
            for task in settings.generate.tasks:
                query = query_of(task, row)
                assert query is not None
                key = (row["subject"], task.name)
                encoded_by_key[key] = encoded_by_key.get(key) or observe(model, [row], [query])
                scored_frames = generate_frames(
                    model, encoded_by_key[key], [row], task, [query], sampling, settings.seed, 1
                )
                frames += [(each, region) for each in scored_frames]
            scores.append(score_subject(frames))
        summarise(scores)
    return time.perf_counter() - start


def _run_in_process(*arguments: str) -> str:
    """Run a part of this file in a process of its own, with the environment of the workers."""
    command = [sys.executable, "-m", "benchmarks.jobs", *arguments]
    environment = os.environ | WORKER_ENVIRONMENT | {"RAY_ADDRESS": "local"}
    return subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603


PARTS = {"generation": generation, "memory": large_volumes, "sweep": sweep}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--beside", type=Path, help="another checkout, for --part memory")
    parser.add_argument("--config", default="phantom", help="whose model, for --part memory (phantom, acdc_small, …)")
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--actors", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--sweep", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--evaluate", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        print(bare(load_settings(options.bare)))
    elif options.actors:
        seconds, memory = on_actors(load_settings(Path(options.actors[1])), int(options.actors[0]))
        print(seconds, *memory)
    elif options.sweep:
        print(on_tune(load_settings(Path(options.sweep[0])), Path(options.sweep[1])))
    elif options.evaluate:
        print(evaluations(load_settings(Path(options.evaluate[0])), Path(options.evaluate[1])))
    elif options.part == "memory":
        with tempfile.TemporaryDirectory() as folder:
            large_volumes(Path(folder), options.beside, options.config)
    else:
        for name, part in PARTS.items():
            if options.part in (None, name):
                with tempfile.TemporaryDirectory() as folder:
                    part(Path(folder))


if __name__ == "__main__":
    main()
