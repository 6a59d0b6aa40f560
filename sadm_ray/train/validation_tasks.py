"""The tasks of validation against the study, before anything is trained or searched."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sadm_ray.config import Settings
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.errors import ConfigError
from sadm_ray.generate.answerable import can_score, require_answerable, unanswered

log = logging.getLogger(__name__)

_SHOWN = 5
"""Subjects that are told, a line each; of the others the number."""


def check_tasks(settings: Settings, study: Study, names: Sequence[str]) -> None:
    """Refuse tasks that nobody can answer, and tell which of these subjects lack the frames of a task.

    Raises:
        ConfigError: no subject of the study has the frames of a task.
    """
    everybody = list(dict.fromkeys([*names, *(name for some in study.subjects.values() for name in some)]))
    require_answerable(study, everybody, settings.generate.tasks, "generate.tasks")
    lines = unanswered(study, names, settings.generate.tasks)
    for line in lines[:_SHOWN]:
        log.warning("validation: %s; it is left out of this task", line)
    if len(lines) > _SHOWN:
        log.warning("validation: and %d more of the kind", len(lines) - _SHOWN)


def check_validation_tasks(settings: Settings, study: Study, *, scored: bool = False) -> None:
    """`check_tasks` where frames are generated beside training.

    Args:
        scored: whether their scores are needed, beside early stopping on them.

    Raises:
        ConfigError: as `check_tasks`; or nothing could be scored that has to be.
    """
    wanted = settings.train.validation
    names = study.subjects.get("val", ())[: wanted.subjects]
    if not wanted.generate_every or not names:
        return
    check_tasks(settings, study, names)
    scored |= wanted.patience is not None and wanted.stop_on == "psnr"
    if scored and not can_score(study, names, settings.generate.tasks):
        raise ConfigError(
            "generate.tasks: no validation subject has the frames of any of them, so that there is no psnr; change "
            "the tasks, or raise train.validation.subjects"
        )
