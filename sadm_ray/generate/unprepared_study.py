"""Prepare raw scans for a model, as those were prepared that it was trained on."""

from __future__ import annotations

from sadm_ray.config import DataSettings, Settings
from sadm_ray.data.shards.prepare import prepare_study
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.errors import DataError
from sadm_ray.generate.generation_plan import wants_slots
from sadm_ray.model.model_config import ModelConfig


def prepare_like(settings: Settings, model: ModelConfig, root: str, out: str) -> Study:
    """Prepare all subjects of the study at `root`; run again, only what is new or changed is done.

    How volumes are prepared comes from the model; where the scans are and what their times mean from the settings
    (`data.layout`, `data.suffix`, `data.time_column`, …). Visits are put into time slots only where slots are
    requested; else all visits are kept, and one is enough.

    Raises:
        DataError: the model does not say how it was prepared, or nothing of the study can be used.
    """
    if not model.prepared:
        raise DataError(
            "generate.study: the model does not say how its scans were prepared; train it again, or prepare"
        )
    in_slots = wants_slots(settings.generate)
    how = {
        **settings.data.model_dump(),
        **model.prepared,
        "frames": (model.prepared["frames"] or settings.data.frames) if in_slots else None,
        "min_scans": 2 if in_slots else 1,
        "root": root,
    }
    prepared = settings.model_copy(update={"data": DataSettings.model_validate(how)})
    return prepare_study(prepared, root, out)
