"""The members of a comparison: every kind with every seed, with the same budget and the same tasks."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from sadm_ray.config import ModelKind, Settings, TaskSettings
from sadm_ray.config.settings_file import with_values
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.model.registry import KINDS
from sadm_ray.progress import progress
from sadm_ray.train.dry_run import estimate

BUDGETS = "budgets.json"
"""The steps of every kind, and what they were measured for; a resumed comparison keeps them."""
_REPEATS = 2
"""Measurements of each kind, of which the fastest counts, since other processes may disturb one."""


@dataclass(frozen=True)
class Member:
    """One training of the comparison: `settings` are those of its own run in the comparison's folder."""

    kind: ModelKind
    seed: int
    settings: Settings

    @property
    def name(self) -> str:
        return self.settings.run.name

    @property
    def folder(self) -> Path:
        return self.settings.run_dir

    @property
    def model(self) -> Path:
        return self.folder / "model"


def members_of(settings: Settings, study: Study, out: Path) -> list[Member]:
    """All members, the first seed of every kind before the second of any.

    Args:
        out: folder for their runs.
    """
    members = []
    steps = _budgets(settings, study, out)
    for seed in range(settings.compare.seeds):
        for kind, count in steps.items():
            members += [Member(kind, seed, _member_settings(settings, study, out, kind, seed, count))]
    return members


def comparison_tasks(settings: Settings, study: Study) -> tuple[TaskSettings, ...]:
    """The tasks of the comparison: `compare.tasks`, else the paper's three settings if the study has slots."""
    if settings.compare.tasks:
        return settings.compare.tasks
    if study.frames is None:
        return settings.generate.tasks
    last = study.frames - 1
    observed = {
        "single-image": (0,),
        "missing-data": tuple(sorted({0, round(last / 4), round(last / 2)})),
        "full-sequence": tuple(range(last)),
    }
    # Short sequences have fewer tasks.
    names = {slots: name for name, slots in reversed(observed.items()) if last not in slots}
    return tuple(TaskSettings(name=name, observed=slots, targets=(-1,)) for slots, name in reversed(names.items()))


def _budgets(settings: Settings, study: Study, out: Path) -> Mapping[ModelKind, int]:
    """Training steps by kind."""
    compare = settings.compare
    if compare.minutes is None:
        return dict.fromkeys(compare.kinds, settings.train.steps)
    decisive = settings.model_dump(mode="json", include={"model", "diffusion", "train"})
    decisive["train"].pop("start_from")  # no training of a comparison does
    identity = {"minutes": compare.minutes, "workers": compare.workers, "study": study.digest, "settings": decisive}
    identity |= {"kinds": list(compare.kinds), "concurrent": compare.concurrent}
    file = out / BUDGETS
    stored = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if stored.get("for") != identity:
        repeats = [_seconds_per_step(settings, study, out) for _ in range(_REPEATS)]
        seconds = {kind: min(each[kind] for each in repeats) for kind in compare.kinds}
        steps = {kind: max(round(60.0 * compare.minutes / taken), 1) for kind, taken in seconds.items()}
        stored = {"for": identity, "seconds_a_step": seconds, "steps": steps}
        out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")
    return {kind: stored["steps"][kind] for kind in compare.kinds}


def _seconds_per_step(settings: Settings, study: Study, out: Path) -> dict[ModelKind, float]:
    """Seconds of a step of each kind, measured while the other workers of a comparison run on this machine, too.

    Two workers that share memory and matrix units were measured to take up to twice as long as one alone.
    """
    compare, seconds = settings.compare, {}
    at_once = min(compare.concurrent * compare.workers, os.cpu_count() or 1)
    with progress("measure", len(compare.kinds)) as counter:
        for kind in compare.kinds:
            member_settings = _member_settings(settings, study, out, kind, 0, settings.train.steps)
            with ThreadPoolExecutor(at_once) as pool:  # each measures in a process of its own
                copies = [member_settings] * at_once
                estimates = list(pool.map(lambda each: estimate(each, study, smaller=False), copies))
            seconds[kind] = fmean(each.seconds_per_step for each in estimates)
            counter.add(1, f"{kind}, {seconds[kind]:.2g} s a step")
    return seconds


def _member_settings(base: Settings, study: Study, out: Path, kind: ModelKind, seed: int, steps: int) -> Settings:
    values = {
        "run.name": f"{kind}-{seed}",
        "run.dir": str(out),
        "seed": (base.seed + seed) % 2**31,
        "data.shards": study.location,
        "model.kind": kind,
        "train.seed": None,
        "train.start_from": None,  # all kinds begin with nothing
        "train.steps": steps,
        "train.workers": base.compare.workers,
        "train.min_workers": None,
        "tune.sweep": "sampling",
        "tune.trials": max(base.compare.trials, 1),
        "tune.num_steps": sorted({1, *base.tune.num_steps}),  # the sweep scores samples, for which 1 may be best
        "generate.model": None,
        "generate.ensemble": (),
        "generate.study": None,
        "generate.out": None,
        "generate.split": "test",
        "generate.missing": False,
        "generate.at": (),
        "generate.file": None,
        "generate.replace": True,  # the folder belongs to this comparison
        "generate.samples": base.generate.samples if KINDS[kind].is_random else 1,
        "generate.tasks": [task.model_dump(mode="json") for task in comparison_tasks(base, study)],
    }
    if base.train.storage is not None:
        values["train.storage"] = f"{base.train.storage.rstrip('/')}/{base.run.name}/compare"
    return with_values(base, values)
