"""Which covariates of a model a study knows: what is unknown counts as missing, and should not do so without a word."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sadm_ray.config import CovariateSettings
from sadm_ray.data.find.study_tables import map_in_threads
from sadm_ray.data.load.collate import covariate_value
from sadm_ray.data.shards.prepared_study import Study, row_locations
from sadm_ray.storage import Storage

_MOST_VALUES = 5


def unknown_covariates(study: Study, subjects: Collection[str], wanted: Sequence[CovariateSettings]) -> list[str]:
    """A line for those that no subject has, and one for each with values that say nothing to the model.

    Damaged shards are passed over.
    """
    if not wanted:
        return []
    rows = [json.loads(text) for text in _stored(study, subjects)]
    lines, missing = [], []
    for each in wanted:
        values = [value for row in rows for value in _values(row, each) if value is not None]
        odd = [str(value) for value in values if covariate_value(each, value) is None]
        if not values:
            missing.append(each.name)
        elif odd:
            distinct = sorted(set(odd))
            listed = ", ".join(repr(value) for value in distinct[:_MOST_VALUES])
            more = ", …" if len(distinct) > _MOST_VALUES else ""
            known = f"none of the levels {', '.join(each.levels)}" if each.levels else "no number"
            lines.append(f"{each.name}: {listed}{more} is {known}, and counts as missing; mend the study's table")
    if missing:
        have = sorted({name for row in rows for each in (row["subject"], *row["visits"]) for name in each})
        lines.insert(
            0,
            f"{', '.join(missing)}: known of no subject of {study.location}, and counts as missing; its tables have "
            f"{', '.join(have) or 'no covariates'}",
        )
    return lines


def _values(row: Mapping[str, Any], covariate: CovariateSettings) -> list[Any]:
    of_subject = covariate.of == "subject" or covariate.planned  # which is known of wanted visits, then
    places = [*([row["subject"]] if of_subject else []), *(row["visits"] if covariate.of == "visit" else [])]
    return [place.get(covariate.name) for place in places]


def _stored(study: Study, subjects: Collection[str]) -> list[str]:
    """The column `covariates` of these subjects."""
    places = row_locations(study)
    shards: dict[str, list[int]] = {}
    for name in subjects:
        if name in places:
            shards.setdefault(places[name].shard, []).append(places[name].row)

    def read(shard: str) -> list[str]:
        try:
            with Storage(study.location).open_random(shard) as stream:
                column = pq.read_table(stream, columns=["covariates"])["covariates"]
            return [column[row].as_py() for row in shards[shard]]
        except (OSError, pa.ArrowException, IndexError):
            return []

    return [text for some in map_in_threads(read, list(shards)) for text in some]
