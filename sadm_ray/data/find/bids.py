"""Find the subjects of a BIDS study (Gorgolewski et al., Scientific Data 2016; bids-specification.readthedocs.io).

A scan is `sub-01/[ses-2/]anat/sub-01_ses-2[_entities]_T1w.nii.gz`. The times of the visits are in
`sub-01/sub-01_sessions.tsv`, in a `participants.tsv` that has a row for each session, or in the `scans.tsv`.

Of several suffixes, a visit is there when it has a scan of one of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from sadm_ray.config import SAFE_NAME, DataSettings
from sadm_ray.data.find.bids_rows import match_subjects, match_visits
from sadm_ray.data.find.bids_tables import TOP_FILES, TableFiles, read_participants
from sadm_ray.data.find.catalog import Catalog, Problem, Scan, Subject
from sadm_ray.data.find.study_tables import covariates_of
from sadm_ray.data.find.time_column import Visit
from sadm_ray.data.find.time_units import some
from sadm_ray.data.find.visit_times import order_remark, order_visits, read_times, too_few_visits
from sadm_ray.errors import DataError
from sadm_ray.storage import Entry, Storage

# Only folders sub-* at the top are looked into, so derivatives/, sourcedata/ and code/ are not.
_IMAGE = re.compile(r"(?P<subject>sub-[^/]+)/(?:(?P<session>ses-[^/]+)/)?anat/(?P<stem>[^/]+)\.nii(?:\.gz)?")
_SESSION = re.compile(r"_ses-([^_]+)")
_SCANS_TABLE = re.compile(r"(?:ses-[^/]+/)?sub-[^/]+_scans\.tsv")


@dataclass(slots=True)
class _Folder:
    """What lies below `sub-X`: the matching files of each session by suffix, all suffixes, and the tables."""

    scans: dict[str, dict[str, list[Entry]]] = field(default_factory=dict)
    suffixes: set[str] = field(default_factory=set)
    tables: TableFiles = field(default_factory=TableFiles)


def find_bids(root: str, settings: DataSettings) -> Catalog:
    """Find the subjects below `root` that have at least two visits with the suffix, or one of those, of the settings.

    Raises:
        DataError: `root` is missing or has no folder sub-*, no scan has the suffix (or one of several) or matches, or
            no column has the times of the visits.
    """
    storage = Storage(root)
    problems: list[Problem] = []
    suffixes = settings.suffixes
    folders, study_tables = _folders(storage, settings, problems)
    if not folders:
        raise DataError(
            f"{root}: no folders sub-* here; data.root must be the folder of a BIDS study (data.layout=bids)"
        )
    _require_scans(root, folders, settings)
    visits: dict[str, list[Visit]] = {}
    for folder_name, folder in sorted(folders.items()):
        name = folder_name.removeprefix("sub-")
        found, wrong = _visits(name, folder, storage, suffixes, settings.min_scans)
        problems += wrong
        if found:
            visits[name] = found
    tables = {name: folders[f"sub-{name}"].tables for name in visits}
    people = read_participants(storage, study_tables, visits)
    problems += people.problems
    column, declared = match_visits(storage, visits, study_tables, tables, people, settings.time_column, problems)
    subject_rows = match_subjects(storage, visits, people, problems)
    times = read_times(column, visits, settings, storage.location, declared)
    problems += times.problems
    subjects = []
    unexpected: dict[str, tuple[Scan, ...]] = {}
    for name, subject_visits in visits.items():
        ordered = order_visits(
            name, subject_visits, times, storage, settings.min_scans, f"visit with a {' or '.join(suffixes)}"
        )
        problems += ordered.problems
        if ordered.is_unexpected:
            unexpected[name] = ordered.scans
        if ordered.scans:
            row = subject_rows.get(name, {})
            lower = {column.lower(): value for column, value in row.items()}
            group = lower.get("group") or lower.get("diagnosis") or ""
            subjects.append(Subject(name, ordered.scans, group, covariates=covariates_of(row)))
    problems += order_remark(unexpected, times, storage)
    return Catalog(storage.location, tuple(subjects), tuple(problems), times.unit)


def _folders(
    storage: Storage, settings: DataSettings, problems: list[Problem]
) -> tuple[dict[str, _Folder], TableFiles]:
    """All folders sub-*, and the tables and sidecars at the top."""
    folders: dict[str, _Folder] = {}
    suffixes = settings.suffixes
    of_study = TableFiles()
    for entry in storage.entries():
        name, _, rest = entry.path.partition("/")
        if entry.path in TOP_FILES:
            of_study.files[entry.path] = entry
        if not rest or not name.startswith("sub-"):
            continue
        folder = folders.setdefault(name, _Folder())
        if rest in (f"{name}_sessions.tsv", f"{name}_sessions.json"):
            folder.tables.files[rest.removeprefix(f"{name}_")] = entry
        elif _SCANS_TABLE.fullmatch(rest):
            folder.tables.scans.append(entry)
        image = _IMAGE.fullmatch(entry.path)
        if image is None:
            continue
        stem, session_folder = image["stem"], image["session"]
        suffix = stem.rpartition("_")[2]
        folder.suffixes.add(suffix)
        if suffix not in suffixes or (settings.match and not fnmatchcase(entry.path, settings.match)):
            continue
        if not f"{stem}_".startswith(f"{name}_{session_folder}_" if session_folder else f"{name}_"):
            message = "is called after another subject or session than its folder; move or rename it"
            problems.append(Problem(name.removeprefix("sub-"), storage.where(entry.path), message))
            continue
        entity = _SESSION.search(stem)
        session = session_folder.removeprefix("ses-") if session_folder else entity[1] if entity else ""
        folder.scans.setdefault(session, {}).setdefault(suffix, []).append(entry)
    return folders, of_study


def _require_scans(root: str, folders: Mapping[str, _Folder], settings: DataSettings) -> None:
    """Refuse a suffix or a pattern that no scan of the study has: one line in the place of one for each subject."""
    found = {suffix for folder in folders.values() for scans in folder.scans.values() for suffix in scans}
    missing = [suffix for suffix in settings.suffixes if suffix not in found]
    if not missing:
        return
    suffixes = sorted({suffix for folder in folders.values() for suffix in folder.suffixes})
    if missing[0] in suffixes and settings.match:
        raise DataError(
            f"{root}: data.match={settings.match!r} fits the path of no scan _{missing[0]}.nii.gz in "
            f"{len(folders)} folders sub-*; correct it (it is compared with all of sub-…/anat/…, as '*_run-1_*')"
        )
    if suffixes:
        raise DataError(
            f"{root}: no scan _{missing[0]}.nii.gz in {len(folders)} folders sub-*, only {some(suffixes)}; choose "
            "another data.suffix"
        )


def _visits(
    subject: str, folder: _Folder, storage: Storage, suffixes: Sequence[str], min_scans: int
) -> tuple[list[Visit], list[Problem]]:
    """The visits of a subject with one file each, or one of each suffix; none where fewer than `min_scans` are left."""
    folder_path = storage.where(f"sub-{subject}")
    if not SAFE_NAME.fullmatch(subject):
        message = "not a usable name; rename it with letters, digits, '_', '-' and '.' only"
        return [], [Problem(subject, folder_path, message)]
    if not folder.scans:
        others = ", ".join(sorted(folder.suffixes.difference(suffixes))) or "no images in anat/"
        scan = f"no scan {' or '.join(f'_{suffix}.nii.gz' for suffix in suffixes)}"
        message = f"has {scan}, only {others}; add one or choose another data.suffix or data.match"
        if folder.suffixes.intersection(suffixes):
            message = f"has {scan} that fits data.match; add one or correct data.match"
        return [], [Problem(subject, folder_path, message)]
    visits, problems = [], []
    for session, by_suffix in folder.scans.items():
        alone: dict[str, Entry] = {}
        for suffix in [suffix for suffix in suffixes if suffix in by_suffix]:
            entries = by_suffix[suffix]
            if len(entries) > 1:
                two = " and ".join(entry.path for entry in entries[:2])
                message = f"{len(entries)} files for one visit, {two}; choose one with data.match, such as '*_run-1_*'"
                problems.append(Problem(subject, storage.where(entries[0].path), message))
            else:
                alone[suffix] = entries[0]
        if not alone:
            continue
        first = next(iter(alone.values()))
        file = storage.where(first.path)
        if session and not SAFE_NAME.fullmatch(session):
            message = f"session {session!r} is not a usable name; rename it with letters, digits, '_', '-' and '.' only"
            problems.append(Problem(subject, file, message))
        elif not session and len(folder.scans) > 1:
            problems.append(Problem(subject, file, "belongs to no session, while others do; move it into one"))
        else:
            visits.append(Visit(first, session, {}, contrasts=alone if len(suffixes) > 1 else {}))
    if 0 < len(visits) < min_scans:
        kind = f"visit with a {' or '.join(suffixes)}"
        problems.append(too_few_visits(subject, folder_path, kind, len(visits), min_scans))
    return visits if len(visits) >= min_scans else [], problems
