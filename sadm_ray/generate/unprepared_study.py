"""Prepare raw scans for a model, as those were prepared that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sadm_ray.config import DataSettings, Settings, contrasts_of
from sadm_ray.data.find import find_subjects
from sadm_ray.data.shards.prepare import prepare_study
from sadm_ray.data.shards.prepared_study import Study, read_keys, read_study
from sadm_ray.data.shards.subject_row import row_key
from sadm_ray.errors import ConfigError, DataError
from sadm_ray.generate.generation_plan import place_of, study_place, wants_slots
from sadm_ray.generate.generation_record import PLACES, another_request, refuse_another_request
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.storage import Storage

SHARDS = "shards"
"""The folder of the shards in the output folder."""


def refuse_before_preparing(
    settings: Settings, model: ModelConfig, root: str, out: Storage, facts: Mapping[str, Any]
) -> None:
    """Refuse, before anything in `out` is changed, to prepare a study into the folder of another study or request.

    A study at another place is another one, unless all scans that were prepared are the same: then it was moved. What
    the lines of a request file have changed is known when the study is prepared (`generation_record.claim`).

    Args:
        facts: `generation_plan.decisive_facts`.

    Raises:
        ConfigError: the folder belongs to something else.
        DataError: as `prepare_like`; or `root` is no study.
    """
    try:
        before = read_study(out.where(SHARDS))
        keys = read_keys(before)
    except DataError:  # none, or one that has to be prepared again in any case
        refuse_another_request(out, facts, but=("file",))
        return
    data = _preparation(settings, model, root)
    is_same = study_place(before) == place_of(root)
    if not is_same:
        now = {subject.name: row_key(subject, data) for subject in find_subjects(root, data).subjects}
        is_same = all(now.get(name) == key for name, (key, _) in keys.items())
    refuse_another_request(out, facts, but=PLACES if is_same else ("file",))
    if not is_same:  # an earlier version wrote no place into the facts
        raise another_request(out, [f"study {study_place(before)} before, {place_of(root)} now"])


def prepare_like(settings: Settings, model: ModelConfig, root: str, out: str) -> Study:
    """Prepare all subjects of the study at `root`; run again, only what is new or changed is done.

    How volumes are prepared comes from the model, also which contrasts where it has several; where the scans are and
    what their times mean from the settings (`data.layout`, `data.suffix`, `data.time_column`, …). Visits are put into
    time slots only where slots are requested; else all visits are kept, and one is enough.

    Raises:
        ConfigError: the model has several contrasts, and the layout of the study none.
        DataError: the model does not say how it was prepared, or nothing of the study can be used.
    """
    prepared = settings.model_copy(update={"data": _preparation(settings, model, root)})
    return prepare_study(prepared, root, out)


def _preparation(settings: Settings, model: ModelConfig, root: str) -> DataSettings:
    if not model.prepared:
        raise DataError(
            "generate.study: the model does not say how its scans were prepared; train it again, or prepare"
        )
    contrasts = contrasts_of(model.prepared.get("suffix", ""))
    if len(contrasts) > 1 and settings.data.layout != "bids":
        raise ConfigError(
            f"data.layout: the model generates {' and '.join(contrasts)} together, which goes with layout=bids only"
        )
    in_slots = wants_slots(settings.generate)
    how = {
        **settings.data.model_dump(),
        **model.prepared,
        "frames": (model.prepared["frames"] or settings.data.frames) if in_slots else None,
        "min_scans": 2 if in_slots else 1,
        "root": place_of(root),
    }
    return DataSettings.model_validate(how)
