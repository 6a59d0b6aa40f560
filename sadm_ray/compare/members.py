"""Who takes part in a comparison: every kind with every seed, all with the same budget and the same questions."""

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
"""Steps by kind, and what they were measured for: a comparison that goes on keeps them."""
_ROUNDS = 2
"""Of measuring all kinds, of which the quicker counts: something else may have disturbed a kind in one of them."""


@dataclass(frozen=True)
class Member:
    """One training: `settings` are those of a run of its own in the comparison's folder."""

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
        out: their runs are put there.
    """
    members = []
    steps = _budgets(settings, study, out)
    for seed in range(settings.compare.seeds):
        members += [Member(kind, seed, _settings(settings, study, out, kind, seed, steps[kind])) for kind in steps]
    return members


def questions(settings: Settings, study: Study) -> tuple[TaskSettings, ...]:
    """What the models are asked: `compare.tasks`, else the paper's three settings where the study has slots."""
    if settings.compare.tasks:
        return settings.compare.tasks
    if study.frames is None:
        return settings.generate.tasks
    last = study.frames - 1
    seen = {
        "single-image": (0,),
        "missing-data": tuple(sorted({0, round(last / 4), round(last / 2)})),
        "full-sequence": tuple(range(last)),
    }
    names = {slots: name for name, slots in reversed(seen.items()) if last not in slots}  # short sequences have fewer
    return tuple(TaskSettings(name=name, observed=slots, targets=(-1,)) for slots, name in reversed(names.items()))


def _budgets(settings: Settings, study: Study, out: Path) -> Mapping[ModelKind, int]:
    """Steps by kind."""
    compare = settings.compare
    if compare.minutes is None:
        return dict.fromkeys(compare.kinds, settings.train.steps)
    decisive = settings.model_dump(mode="json", include={"model", "diffusion", "train"})
    told = {"minutes": compare.minutes, "workers": compare.workers, "study": study.digest, "settings": decisive}
    told |= {"kinds": list(compare.kinds), "concurrent": compare.concurrent}
    file = out / BUDGETS
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if known.get("for") != told:
        rounds = [_seconds_a_step(settings, study, out) for _ in range(_ROUNDS)]
        seconds = {kind: min(each[kind] for each in rounds) for kind in compare.kinds}
        steps = {kind: max(round(60.0 * compare.minutes / taken), 1) for kind, taken in seconds.items()}
        known = {"for": told, "seconds_a_step": seconds, "steps": steps}
        out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    return {kind: known["steps"][kind] for kind in compare.kinds}


def _seconds_a_step(settings: Settings, study: Study, out: Path) -> dict[ModelKind, float]:
    """As long as a step of each kind takes while the other workers of a comparison are at work on this machine, too.

    Two that share its memory and its units for matrix products were measured to take up to twice as long as one alone.
    """
    compare, seconds = settings.compare, {}
    at_once = min(compare.concurrent * compare.workers, os.cpu_count() or 1)
    with progress("measure", len(compare.kinds)) as reporter:
        for kind in compare.kinds:
            asked = _settings(settings, study, out, kind, 0, settings.train.steps)
            with ThreadPoolExecutor(at_once) as pool:  # each of them measures in a process of its own
                estimates = list(pool.map(lambda each: estimate(each, study, smaller=False), [asked] * at_once))
            seconds[kind] = fmean(each.seconds_a_step for each in estimates)
            reporter.add.remote(1, f"{kind}, {seconds[kind]:.2g} s a step")
    return seconds


def _settings(base: Settings, study: Study, out: Path, kind: ModelKind, seed: int, steps: int) -> Settings:
    values = {
        "run.name": f"{kind}-{seed}",
        "run.dir": str(out),
        "seed": (base.seed + seed) % 2**31,
        "data.shards": study.location,
        "model.kind": kind,
        "train.seed": None,
        "train.steps": steps,
        "train.workers": base.compare.workers,
        "train.min_workers": None,
        "tune.of": "sampling",
        "tune.trials": max(base.compare.trials, 1),
        "tune.num_steps": sorted({1, *base.tune.num_steps}),  # one volume is judged, which a single step may do best
        "generate.model": None,
        "generate.ensemble": (),
        "generate.study": None,
        "generate.out": None,
        "generate.split": "test",
        "generate.missing": False,
        "generate.at": (),
        "generate.file": None,
        "generate.replace": True,  # a folder of this comparison's own
        "generate.samples": base.generate.samples if KINDS[kind].is_random else 1,
        "generate.tasks": [task.model_dump(mode="json") for task in questions(base, study)],
    }
    if base.train.storage is not None:
        values["train.storage"] = f"{base.train.storage.rstrip('/')}/{base.run.name}/compare"
    return with_values(base, values)
