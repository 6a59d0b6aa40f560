"""What the generation job has to do: the requests of each subject, and the facts that decide its volumes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sadm_ray.config import CovariateSettings, GenerateSettings, SamplingSettings, Settings, is_url
from sadm_ray.data.shards.prepared_study import Study, read_checksums
from sadm_ray.errors import ConfigError
from sadm_ray.generate.answerable import TimeLimits, require_answerable
from sadm_ray.generate.bids_names import NAMING, bare_label, bids_labels
from sadm_ray.generate.generation_record import FILE_NAMES, PLACES
from sadm_ray.generate.given_covariates import Given, combinations
from sadm_ray.generate.request import Request
from sadm_ray.generate.request_csv import Failures, read_requests
from sadm_ray.storage import Storage

VISITS = "visits"
"""The name of a request for missing visits and for times."""


@dataclass(frozen=True)
class SubjectJob:
    """All requests of one subject, whose stored row has that checksum; equal keys mean equal volumes.

    `label` is that of the subject in the names of files (`bids_names.bids_labels`).
    """

    subject: str
    requests: tuple[Request, ...]
    key: str
    checksum: str = ""
    label: str = ""

    @property
    def file_label(self) -> str:
        """The label; where none was given, the name in letters and digits."""
        return self.label or bare_label(self.subject, "sub")


@dataclass(frozen=True)
class Plan:
    """The subject jobs, the requests that cannot be served with the reason, and the facts that decide all volumes."""

    subject_jobs: tuple[SubjectJob, ...]
    failures: Failures
    decisive: Mapping[str, Any]


def plan_subject_jobs(
    settings: Settings,
    study: Study,
    digests: Sequence[str],
    sampling: SamplingSettings,
    time_scale: float,
    planned: Sequence[CovariateSettings] = (),
) -> Plan:
    """Turn the settings into subject jobs, sorted by the subjects' names.

    Args:
        digests: of the models, in the order in which samples are dealt among them.
        time_scale: what the model divides times by.
        planned: the covariates of the wanted visits that the models know.

    Raises:
        ConfigError: the request does not fit this study: a time is too far from it, or no subject has the frames of a
            task; or the models do not know a covariate that is given.
        DataError: no subject is in the split, or the request file cannot be read.
    """
    wanted = settings.generate
    decisive = decisive_facts(settings, study_place(study), digests, sampling)
    all_names = tuple(sorted(name for names in study.subjects.values() for name in names))
    names = all_names if wanted.split == "all" else study.names(wanted.split)
    given = combinations(wanted.given, planned)
    failures: Failures = {}
    if wanted.study is not None:
        for line in study.problems:
            subject, _, reason = line.partition(": ")
            earlier = failures.get((subject, "preparation"))
            failures[subject, "preparation"] = reason if earlier is None else f"{earlier}; {reason}"
    if wants_tasks(wanted):
        require_answerable(study, names, wanted.tasks, "generate.tasks")
    limits = TimeLimits.of(study, time_scale) if wanted.at or wanted.file is not None else None
    if limits is not None and (beyond := limits.beyond(wanted.at)):
        raise ConfigError(f"generate.at: {beyond}")
    if wanted.file is not None:
        requests, wrong = read_requests(
            wanted.file, set(all_names), wanted.samples, settings.seed, limits, planned, given
        )
        failures |= wrong
    else:
        requests = {name: _requests(settings, study, given) for name in names}
    checksums, labels = read_checksums(study), bids_labels(all_names, "sub")
    of_requests = bids_labels({request.name for its in requests.values() for request in its})
    subject_jobs = []
    for name, its in sorted(requests.items()):
        labelled = tuple(replace(request, label=of_requests[request.name]) for request in its)
        key = _key(decisive, checksums[name], labels[name], labelled)
        subject_jobs.append(SubjectJob(name, labelled, key, checksums[name], labels[name]))
    return Plan(tuple(subject_jobs), failures, decisive)


def decisive_facts(
    settings: Settings, study: str, digests: Sequence[str], sampling: SamplingSettings
) -> dict[str, Any]:
    """What an output folder belongs to (`generation_record.claim`).

    Args:
        study: `place_of` the scans.
    """
    wanted = settings.generate
    facts = {
        "model": digests[0] if len(digests) == 1 else list(digests),
        "sampling": sampling.model_dump(mode="json"),
        "estimates": list(wanted.estimates),
        "sequence": wanted.sequence,
        "exact": wanted.exact,
        "wanted": _request_facts(settings),
        "study": study,
        FILE_NAMES: NAMING,
    }
    if not wanted.structures:
        facts["structures"] = False
    elif settings.data.labels is not None:
        facts["structures"] = settings.data.labels
    return facts if wanted.file is None else facts | {"file": place_of(wanted.file)}


def study_place(study: Study) -> str:
    """The place of a prepared study's scans; of the phantom, which can be written anew anywhere, that of its shards."""
    return place_of(study.settings.get("root") or study.location)


def place_of(location: str) -> str:
    """One name for all ways to write a folder or a file: absolute, and without links where it is on this machine."""
    location = location.removeprefix("file://")
    return location.rstrip("/") if is_url(location) else os.path.realpath(Path(location).expanduser())


def wants_tasks(wanted: GenerateSettings) -> bool:
    """Whether the targets of tasks are requested, which can be evaluated, rather than visits."""
    return not wanted.missing and not wanted.at and wanted.file is None


def wants_slots(wanted: GenerateSettings) -> bool:
    """Whether slots of a sequence are requested, rather than times."""
    return wants_tasks(wanted) or wanted.missing


def model_folder(settings: Settings) -> str:
    """The model to generate with, a folder or a URL: the one that the settings name, else the run's own."""
    return Storage(settings.generate.model or str(settings.run_dir / "model")).location


def model_folders(settings: Settings) -> list[str]:
    """The model to generate with, and the other models of its ensemble after it."""
    return [model_folder(settings), *(Storage(folder).location for folder in settings.generate.ensemble)]


def default_out(settings: Settings) -> str:
    """The output folder, below the run's, for a request whose settings name none."""
    wanted = settings.generate
    if wants_tasks(wanted):
        return str(settings.run_dir / "generated")
    name = VISITS if wanted.file is None else Path(wanted.file).stem
    return str(settings.run_dir / f"generated-{name}")


def _requests(settings: Settings, study: Study, given: Sequence[Given]) -> list[Request]:
    wanted, seed = settings.generate, settings.seed
    if wants_tasks(wanted):
        return [Request(task.name, wanted.samples, seed, task=task) for task in wanted.tasks]
    if wanted.missing and study.frames is None and not wanted.at:
        raise ConfigError(
            "generate.missing: this study keeps all visits, however many, so that none is missing; give the times of "
            "its schedule as generate.at"
        )
    request = Request(VISITS, wanted.samples, seed, missing=wanted.missing, times=wanted.at)
    return [request.under(each) for each in given]


def _request_facts(settings: Settings) -> dict[str, Any]:
    """What is requested, for people who compare two requests."""
    wanted = settings.generate
    given = {"given": list(wanted.given)} if wanted.given else {}
    if wanted.file is not None:
        return {"file": Path(wanted.file).name, **given}  # its lines decide, and are in each subject's key
    facts = {"seed": settings.seed, "samples": wanted.samples, "split": wanted.split, **given}
    if wants_tasks(wanted):
        return facts | {"tasks": [task.model_dump(mode="json") for task in wanted.tasks]}
    return facts | {"missing": wanted.missing, "at": list(wanted.at)}


def _key(decisive: Mapping[str, Any], checksum: str, label: str, requests: Sequence[Request]) -> str:
    looks = {key: value for key, value in decisive.items() if key not in PLACES}
    content = [{**looks, "wanted": None}, checksum, label, [request.to_json() for request in requests]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
