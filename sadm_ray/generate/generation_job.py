"""The generation job: a pool of actors runs the subject jobs and writes NIfTI files and a record of each subject.

A subject that has a record is not done again: after an interruption, running the job again does what is left.
"""

from __future__ import annotations

import csv
import io
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

import ray

from sadm_ray.actor_pool import map_in_actor_pool
from sadm_ray.cluster import require_shared, warn_of_idle
from sadm_ray.config import GenerateSettings, SamplingSettings, Settings
from sadm_ray.data.label_maps import labels_of
from sadm_ray.data.shards.fingerprints import fingerprints
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.errors import ConfigError
from sadm_ray.generate.actor_job import GenerationJob
from sadm_ray.generate.bids_dataset import describe, scans_folder
from sadm_ray.generate.derived_numbers import DERIVED, check_derived, derived_table, without_structures
from sadm_ray.generate.generation_actor import run_subject_jobs
from sadm_ray.generate.generation_plan import SubjectJob, plan_subject_jobs, wants_tasks
from sadm_ray.generate.generation_record import (
    SubjectRecord,
    claim,
    read_record,
    read_records,
    remove,
    write_manifest,
)
from sadm_ray.generate.given_covariates import planned_of
from sadm_ray.generate.paired_differences import DIFFERENCES, differences_table
from sadm_ray.generate.request import Request
from sadm_ray.generate.request_csv import Failures
from sadm_ray.generate.structure_volumes import (
    SUMMARY,
    VOLUMES,
    kept_corrections,
    record_rows,
    summarise_volumes,
    volumes_table,
    write_table,
)
from sadm_ray.generate.volume_corrections import why_not_corrected
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.model.pretrained import StoredModel
from sadm_ray.model.seen_subjects import NOBODY, SeenSubjects
from sadm_ray.storage import Storage

log = logging.getLogger(__name__)

FAILURES = "failures.csv"
_BLOCKS_PER_ACTOR = 40  # many, as a subject may take seconds and all actors wait for the last block


@dataclass(frozen=True)
class Generation:
    """What the output folder holds after the job.

    `volumes` counts the NIfTI files, `subjects` those that were requested and `done_before` those of them that an
    earlier run had done. `failures` gives the reason for each (subject, task or request) without volumes.
    """

    folder: str
    volumes: int
    subjects: int
    done_before: int
    failures: Mapping[tuple[str, str], str]


def generate_volumes(
    settings: Settings,
    study: Study,
    models: Sequence[StoredModel],
    out: str,
    sampling: SamplingSettings,
    chosen_on: SeenSubjects | None = None,
) -> Generation:
    """Generate what the settings request (`GenerateSettings`) of the study's subjects. Needs a running Ray.

    Writes BIDS derivatives, `out/sub-*/[ses-*/]anat/*.nii.gz` with a JSON each (`bids_names`), `out/predictions/`
    (for the evaluation, and as the record of what is done), `out/manifest.parquet`, and `out/failures.csv` if anything
    failed. The evaluation
    knows from `out/seen_subjects.json` who is a test subject of what was generated.

    Args:
        models: with the average of the weights that `sampling` names; several models draw the samples in turn.
        chosen_on: the subjects on which `sampling` was chosen; None: on nobody.

    Raises:
        ConfigError: `out` holds the volumes of another request or study; it or the shards are not seen by every
            machine; there is no GPU; the request does not fit this study.
        DataError: no subject is requested, or the request file cannot be read; or a record in `out` names a file that
            is none of its subject's.
    """
    wanted = settings.generate
    check_derived(wanted.derived, study.time_unit)
    digests = tuple(model.identity for model in models)
    configs = [ModelConfig.read(model.config, model.source).model for model in models]
    planned = planned_of(config.covariates for config in configs)
    plan = plan_subject_jobs(settings, study, digests, sampling, configs[0].conditioner.time_scale, planned)
    device = _device(wanted.gpus_per_actor)
    require_shared(study.location, "data.shards", "a folder that all nodes share, or a URL")
    require_shared(out, "generate.out", "a folder that all nodes share, or a URL")
    folder = Storage(out)
    records = read_records(folder)
    if claim(folder, plan.decisive, records, {each.subject: each.key for each in plan.subject_jobs}, wanted.replace):
        records = {}
    seen = reduce(or_, (model.seen for model in models), chosen_on or NOBODY)
    seen.write(folder)
    if wants_tasks(wanted) and wanted.split == "test":
        _tell_of_seen(study, plan.subject_jobs, seen)
    left = _left(folder, plan.subject_jobs, records)
    requests = [request for each in plan.subject_jobs for request in each.requests]
    describe(folder, scans_folder(settings, study), requests, wanted.estimates, wanted.sequence)
    labels = labels_of(study) if wanted.structures else None
    for line in why_not_corrected(models, labels, wanted.samples, wanted.level):
        log.warning("generate: %s", line)
    if left:
        job = GenerationJob(
            study,
            tuple(models),
            digests,
            folder.location,
            sampling,
            wanted.estimates,
            wanted.sequence,
            wanted.exact,
            wanted.batch_size,
            device,
            wanted.level,
            labels,
            planned,
        )
        at_once = 1 if wanted.exact else wanted.batch_size
        batches = [left[start : start + at_once] for start in range(0, len(left), at_once)]
        subjects = f"{len(left)} subjects left, {at_once} at a time"
        warn_of_idle("generate.actors", wanted.actors, len(batches), subjects)
        done = map_in_actor_pool(
            "generate",
            batches,
            [len(batch) for batch in batches],
            run_subject_jobs,
            actors=wanted.actors,
            gpus=wanted.gpus_per_actor,
            blocks_per_actor=_BLOCKS_PER_ACTOR,
            job=job,
        )
        deque(done, maxlen=0)
    folder.remove_partials()
    done_before = len(plan.subject_jobs) - len(left)
    return _conclude(folder, plan.subject_jobs, plan.failures, done_before, wanted, study.time_unit)


def _tell_of_seen(study: Study, subject_jobs: Sequence[SubjectJob], seen: SeenSubjects) -> None:
    """Say that some of the test subjects are none to these models; `evaluate` lists them apart."""
    who = fingerprints(study)
    known = [each.subject for each in subject_jobs if seen.seen_as(who[each.subject]) in ("train", "val")]
    if known:
        log.warning(
            "%s: the model was trained, or something was chosen, on %d of its %d test subjects (%s%s): this is another "
            "split than the model's; they will be scored apart, and not as test subjects",
            study.location,
            len(known),
            len(subject_jobs),
            ", ".join(known[:3]),
            ", …" if len(known) > 3 else "",
        )


def _device(gpus: float) -> str:
    if not gpus:
        return "cpu"
    has = ray.cluster_resources().get("GPU", 0)
    if has < gpus:
        raise ConfigError(
            f"generate.gpus_per_actor: an actor wants {gpus:g} GPU, the cluster has {has:g}; set it to 0 for the CPU"
        )
    return "cuda"


def _left(
    out: Storage, subject_jobs: Sequence[SubjectJob], records: Mapping[str, SubjectRecord | None]
) -> list[SubjectJob]:
    """The subject jobs that are not done: no record, another key, a failure, or a file that is not as long as it was.

    Also removes what exists of subjects that are no longer requested, and of those that will be done again; what is not
    made again is told.

    Args:
        records: what exists.
    """
    if not records:
        return list(subject_jobs)
    sizes = {entry.path: entry.size for entry in out.entries()}
    left = []
    for subject_job in subject_jobs:
        record = records.get(subject_job.subject)
        if record is None or record.failed or record.key != subject_job.key:
            left.append(subject_job)
        elif any(sizes.get(file["path"]) != file["bytes"] for file in record.files):
            log.warning(
                "%s: some volumes of subject %s are gone or changed; made again", out.location, subject_job.subject
            )
            left.append(subject_job)
    kept = {subject_job.subject for subject_job in subject_jobs} - {subject_job.subject for subject_job in left}
    _tell_what_goes(out, subject_jobs, records)
    for subject in records.keys() - kept:
        remove(out, subject)
    return left


def _tell_what_goes(
    out: Storage, subject_jobs: Sequence[SubjectJob], records: Mapping[str, SubjectRecord | None]
) -> None:
    wanted = {(each.subject, request.name) for each in subject_jobs for request in each.requests}
    made = {
        (subject, str(frame["task"]))
        for subject, record in records.items()
        for frame in (record.frames if record else ())
        if frame["files"]
    }
    gone = sorted(made - wanted)
    if gone:
        some = "; ".join(f"{subject}, {name}" for subject, name in gone[:5]) + ("; …" if len(gone) > 5 else "")
        log.warning("%s: removed %d results that are no longer requested (%s)", out.location, len(gone), some)


def _conclude(
    out: Storage,
    subject_jobs: Sequence[SubjectJob],
    failures: Failures,
    done_before: int,
    wanted: GenerateSettings,
    time_unit: str,
) -> Generation:
    """Write the manifest, the volumes of structures, what treatments change in them, and the list of failures."""
    records = [read_record(out, subject_job.subject) or SubjectRecord("", ()) for subject_job in subject_jobs]
    for record in records:
        failures |= {(frame["subject"], frame["task"]): frame["error"] for frame in record.frames if frame["error"]}
    write_manifest(out, records)
    _write_structures(out, [each.requests for each in subject_jobs], records, wanted, time_unit)
    if failures:
        sink = io.StringIO()
        writer = csv.writer(sink)
        writer.writerow(("subject", "task", "reason"))
        writer.writerows((*key, reason) for key, reason in sorted(failures.items()))
        out.write(FAILURES, sink.getvalue().encode())
    else:
        out.delete(FAILURES)
    volumes = sum(file["path"].endswith(".nii.gz") for record in records for file in record.files)
    return Generation(out.location, volumes, len(subject_jobs), done_before, failures)


def _write_structures(
    out: Storage,
    requests: Sequence[Sequence[Request]],
    records: Sequence[SubjectRecord],
    wanted: GenerateSettings,
    time_unit: str,
) -> None:
    """Write the volumes of structures, their summary, what is derived from them, and what treatments change in them.

    No files where there are none.

    Args:
        requests: of each record's subject.
    """
    of_subjects = [list(record_rows(record.frames)) for record in records]
    volumes = volumes_table([row for rows in of_subjects for row in rows])
    corrections = dict(each for record in records for each in kept_corrections(record.frames))
    write_table(out, VOLUMES, volumes)
    write_table(out, SUMMARY, summarise_volumes(volumes, wanted.level, corrections))
    write_table(out, DERIVED, derived_table(volumes, wanted.derived, time_unit, wanted.level, corrections))
    write_table(out, DIFFERENCES, differences_table(of_subjects, requests, wanted.level, corrections))
    for line in without_structures(volumes, wanted.derived):
        log.warning("%s", line)
