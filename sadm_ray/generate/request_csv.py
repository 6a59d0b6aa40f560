"""The CSV file of requests, one a line; bad lines are listed and do not stop the others."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from sadm_ray.config import LARGEST_TIME, OUTPUT_NAMES, SAFE_NAME, CovariateSettings
from sadm_ray.errors import ConfigError, DataError
from sadm_ray.generate.answerable import TimeLimits
from sadm_ray.generate.given_covariates import Given, given_value
from sadm_ray.generate.request import Request
from sadm_ray.storage import Storage

_REQUIRED = ("subject", "times")
_KNOWN = (*_REQUIRED, "samples", "seed", "observed", "name")
_NAME = "request"

Requests = dict[str, list[Request]]
"""The requests of each subject."""
Failures = dict[tuple[str, str], str]
"""Why a (subject, task or request) has no volumes."""


def read_requests(
    file: str,
    subjects: Collection[str],
    samples: int,
    seed: int,
    limits: TimeLimits | None = None,
    planned: Sequence[CovariateSettings] = (),
    given: Sequence[Given] = ({},),
) -> tuple[Requests, Failures]:
    """Read a request file (`GenerateSettings`).

    Args:
        file: a path or URL.
        subjects: those of the study.
        samples, seed: defaults for lines without them.
        limits: of the times that can be requested.
        planned: covariates that may have a column.
        given: of these, for lines that say no other; a line has a request for each.

    Returns:
        the requests of each subject, and the lines that are wrong with the reason.

    Raises:
        ConfigError: it lacks a column, or has an unknown one.
        DataError: it cannot be read.
    """
    folder, _, name = file.rpartition("/")
    try:
        text = Storage(folder or ("/" if file.startswith("/") else ".")).read(name).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({error}); give a CSV file as generate.file") from None
    lines = csv.DictReader(text.splitlines())
    columns = [column.strip() for column in lines.fieldnames or ()]
    lines.fieldnames = columns
    known = list(dict.fromkeys([*_KNOWN, *(each.name for each in planned)]))
    for column in _REQUIRED:
        if column not in columns:
            raise ConfigError(f"{file}: has no column '{column}'; its columns may be {', '.join(known)}")
    for column in columns:
        if column not in known:
            raise ConfigError(f"{file}: column '{column}' means nothing here; the columns may be {', '.join(known)}")
    requests: Requests = {}
    failures: Failures = {}
    spelled: dict[str, str] = {}
    for line in lines:
        fields = {key: (value or "").strip() for key, value in line.items() if key is not None}
        where = f"line {lines.line_num}"
        subject, name = fields["subject"], fields.get("name") or _NAME
        try:
            if None in line:
                raise ValueError("has more fields than the head")  # noqa: TRY301
            request = _request(fields, name, samples, seed)
            own = {key: given_value(planned, key, fields[key]) for key in columns if key not in _KNOWN and fields[key]}
            wanted = [request.under(each) for each in _each_once({**each, **own} for each in given)]
            if limits is not None and (beyond := limits.beyond(request.times)):
                raise ValueError(f"times: {beyond}")  # noqa: TRY301
            if subject not in subjects:
                raise ValueError("no such subject in the study")  # noqa: TRY301
            if spelled.setdefault(name.lower(), name) != name:  # some disks do not tell them apart
                raise ValueError(f"'{name}' is '{spelled[name.lower()]}' in other letters; write it alike")  # noqa: TRY301
            named = {other.name for other in requests.get(subject, ())}
            if twice := next((each.name for each in wanted if each.name in named), None):
                raise ValueError(f"requested twice as '{twice}'; give the lines a name each")  # noqa: TRY301
        except ValueError as error:
            failures[subject or where, name] = f"{where}: {error}"
            continue
        requests.setdefault(subject, []).extend(wanted)
    return requests, failures


def _each_once(given: Iterable[Given]) -> list[Given]:
    return [dict(items) for items in dict.fromkeys(tuple(each.items()) for each in given)]


def _request(fields: Mapping[str, str], name: str, samples: int, seed: int) -> Request:
    if not SAFE_NAME.fullmatch(name):
        raise ValueError(f"'{name}' cannot be a folder's name; use letters, digits, '_', '-' and '.'")
    if name.lower() in OUTPUT_NAMES:
        raise ValueError(f"'{name}' is a file or folder of every output folder; give the request another name")
    times = _times("times", fields["times"])
    if not times:
        raise ValueError("times is empty")
    return Request(
        name,
        _whole("samples", fields.get("samples") or str(samples), least=1),
        _whole("seed", fields.get("seed") or str(seed), least=0),
        times=times,
        skip_scanned=False,
        observed=_times("observed", fields.get("observed", "")) or None,
    )


def _times(column: str, text: str) -> tuple[float, ...]:
    times = []
    for word in text.replace(";", " ").split():
        try:
            time = float(word)
        except ValueError:
            time = math.nan
        if not abs(time) <= LARGEST_TIME:  # NaN neither
            raise ValueError(f"{column}: '{word}' is no time; write numbers split by ';'")
        times.append(time)
    return tuple(times)


def _whole(column: str, text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise ValueError(f"{column}: '{text}' is no whole number of at least {least}")
    return int(text)
