"""From a folder of scans to shards, by Ray Data.

The catalog lists the study, `shard_writer` says which subjects make up which shard, and one streaming execution of Ray
Data makes the missing shards. Voxels stay with the workers; what comes back are a few numbers a subject. `_study.json`
is replaced last: a reader meanwhile sees the previous study.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sadm_ray.actor_pool import map_in_actor_pool
from sadm_ray.config import DataSettings, Settings
from sadm_ray.data.find import SPLITS, Catalog, Problem, find_subjects
from sadm_ray.data.find.catalog import merge_alike
from sadm_ray.data.read.rigid_registration import require_registration
from sadm_ray.data.shards.prepared_study import (
    SHARDS_FOLDER,
    SUBJECTS_FOLDER,
    RowLocation,
    Study,
    data_digest,
    preparation_digest,
    read_keys,
    read_study,
    write_row_locations,
)
from sadm_ray.data.shards.shard_writer import Shard, make_shard, plan_shards
from sadm_ray.data.shared_scans import shared_scans
from sadm_ray.data.splits import split_subjects
from sadm_ray.errors import DataError
from sadm_ray.storage import Storage

Facts = dict[str, Any]


def prepare_study(settings: Settings, root: str, out: str) -> Study:
    """Prepare all subjects of the study at `root` and write the shards to `out`; only what is new or changed is done.

    Needs a running Ray.

    Raises:
        ConfigError: `data.register` needs a library that is not installed.
        DataError: `root` is no study, or no subject of it is left to train on; `problems` holds all that is wrong.
    """
    require_registration(settings.data.register)
    catalog = find_subjects(root, settings.data)
    if not catalog.subjects:
        lines = [str(problem) for problem in catalog.problems]
        raise DataError(f"{root}: none of its subjects can be used; mend what is listed", lines)
    storage = Storage(out)
    shards = plan_shards(catalog.subjects, settings.data, _old_rows(storage), storage.files(SHARDS_FOLDER))
    files, facts, problems = _make_shards(shards, settings.data, catalog.folder, storage)
    all_problems = sorted(
        merge_alike([*catalog.problems, *problems, *_shared(facts, catalog.folder)], root),
        key=lambda problem: (problem.subject, problem.file, problem.message),
    )
    left_out = tuple(str(problem) for problem in all_problems if problem.fatal)
    if not facts:
        raise DataError(f"{root}: none of its subjects can be used; mend what is listed", left_out)

    places = write_row_locations(storage.location, facts)
    study = replace(_study(settings, catalog, facts, storage.location, places, all_problems), scans=root)
    study.write()
    storage.keep_only(SHARDS_FOLDER, files)
    storage.keep_only(SUBJECTS_FOLDER, {places})
    return study


def _shared(facts: Sequence[Facts], root: str) -> Iterator[Problem]:
    return shared_scans(((fact["subject"], fact.get("scans") or ()) for fact in facts), root)


def _make_shards(
    shards: Sequence[Shard], settings: DataSettings, source: str, out: Storage
) -> tuple[set[str], list[Facts], list[Problem]]:
    """The files of the shards, the facts of each row, and the problems."""
    files: set[str] = set()
    facts: list[Facts] = []
    problems: list[Problem] = []
    sizes = [len(shard.subjects) for shard in shards]
    for summary in map_in_actor_pool(
        "prepare", shards, sizes, make_shard, root=source, out=out.location, settings=settings
    ):
        files.add(summary["part"])
        facts += [{**fact, "part": summary["part"], "row": row} for row, fact in enumerate(summary["rows"])]
        problems += [Problem(**problem) for problem in summary["problems"]]
    facts.sort(key=lambda fact: fact["subject"])
    return files, facts, problems


def _study(
    settings: Settings,
    catalog: Catalog,
    facts: Sequence[Facts],
    location: str,
    places: str,
    problems: Sequence[Problem],
) -> Study:
    usable = {fact["subject"] for fact in facts}
    split_of = split_subjects(catalog.subjects, settings.data.split, settings.seed)
    subjects = {
        split: tuple(name for name, assigned in sorted(split_of.items()) if assigned == split and name in usable)
        for split in SPLITS
    }
    training = set(subjects["train"])
    content = hashlib.sha256("".join(fact["checksum"] for fact in facts).encode())
    return Study(
        location=location,
        digest=data_digest(settings),
        preparation=preparation_digest(settings, catalog.time_unit),
        content=content.hexdigest(),
        frames=settings.data.frames,
        shape=settings.data.shape,
        time_unit=catalog.time_unit,
        subjects=subjects,
        difference_scale=_difference_scale(fact for fact in facts if fact["subject"] in training),
        problems=tuple(str(problem) for problem in problems if problem.fatal),
        warnings=tuple(str(problem) for problem in problems if not problem.fatal),
        settings=settings.data.model_dump(mode="json"),
        places=places,
    )


def _difference_scale(facts: Iterator[Facts]) -> float:
    """0 where nothing differs, or no subject trains."""
    sums = [(fact["squares"], fact["differences"]) for fact in facts]
    squares, differences = np.sum(sums, axis=0) if sums else (0.0, 0)
    return float(np.sqrt(squares / differences)) if differences else 0.0


def _old_rows(storage: Storage) -> Mapping[str, tuple[str, RowLocation]]:
    """Key and location of every row of the existing study, by subject; empty without one."""
    try:
        return read_keys(read_study(storage.location))
    except DataError:
        return {}
