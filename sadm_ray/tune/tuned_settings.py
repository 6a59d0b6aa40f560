"""`tuned.yaml`: the sampling settings that a sweep chose, for which weights, and on whom."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import ValidationError

from sadm_ray.config import SamplingSettings, Settings
from sadm_ray.errors import ConfigError, DataError
from sadm_ray.generate.generation_plan import model_folder
from sadm_ray.model.pretrained import StoredModel
from sadm_ray.model.seen_subjects import NOT_RECORDED, SeenSubjects
from sadm_ray.storage import Storage

if TYPE_CHECKING:
    from sadm_ray.tune.sweep_result import SamplingSweep

log = logging.getLogger(__name__)

TUNED = "tuned.yaml"


@dataclass(frozen=True)
class Tuned:
    """What `tuned.yaml` says: the sampling settings, and those on whom they were chosen."""

    sampling: SamplingSettings
    seen: SeenSubjects


def tuned_for(settings: Settings) -> Tuned | None:
    """What a sweep chose for the model to generate with; None where none did, or `generate.tuned` is off."""
    if not settings.generate.tuned:
        return None
    folder = model_folder(settings).rstrip("/")
    beside = Storage(folder.rpartition("/")[0])
    return None if beside.entry(TUNED) is None else read_tuned(beside, StoredModel.read(folder))


def read_tuned(folder: Storage, model: StoredModel) -> Tuned:
    """Read the `tuned.yaml` of a run's folder.

    Args:
        model: with its chosen weights, which the settings must have been chosen for.

    Raises:
        ConfigError: they were chosen for other weights.
        DataError: the file is damaged.
    """
    file = folder.where(TUNED)
    try:
        tree = yaml.safe_load(folder.read(TUNED))
        sampling, wanted = SamplingSettings.model_validate(tree["sampling"]), tree.get("model")
        seen = NOT_RECORDED if wanted is None else SeenSubjects.from_json(tree["seen"])
    except (yaml.YAMLError, ValidationError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{file}: not a sweep's result ({type(error).__name__}); run `sadm-ray tune` again") from None
    if wanted is None:
        log.warning(
            "%s: does not say for which model, nor on whom, it was chosen: nobody will count as a test subject; run "
            "`sadm-ray tune` again",
            file,
        )
    elif wanted != model.digest:
        raise ConfigError(
            f"{file}: chosen for other weights ({str(wanted)[:12]}) than those of {model.source} "
            f"({model.digest[:12]}); run `sadm-ray tune` again, or set generate.tuned=false"
        )
    return Tuned(sampling, seen)


def write_tuned(file: Path, swept: SamplingSweep) -> None:
    """Write the best settings for `generate`: for which weights they hold, on whom they were chosen, and a comment."""
    best = swept.trials[swept.trials["chosen"]].iloc[0]
    stopped, count = int(swept.trials["stopped"].sum()), len(swept.trials)
    failed = f", {len(swept.failures)} failed" if swept.failures else ""
    head = (
        f"# Chosen by a sweep of {count} trials, of which {stopped} were stopped early{failed},\n"
        f"# on {len(swept.subjects)} validation subjects: {', '.join(swept.subjects)}.\n"
        f"# One sample is {best['gain']:+.2f} dB PSNR against copy-last there; a frame takes "
        f"{int(best['network_calls'])} network calls.\n"
    )
    new = file.with_suffix(".new")
    tree = {"sampling": swept.best.model_dump(mode="json"), "model": swept.model, "seen": swept.seen.to_json()}
    new.write_text(head + yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    new.replace(file)
