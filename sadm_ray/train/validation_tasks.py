"""The tasks of validation against the study, before anything is trained or searched."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sadm_ray.config import Settings
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.errors import ConfigError
from sadm_ray.generate.answerable import require_answerable, unanswered

log = logging.getLogger(__name__)


def check_tasks(settings: Settings, study: Study, names: Sequence[str]) -> int:
    """Refuse tasks that nobody can answer, and tell which of these subjects lack the frames of a task; returns how
    many lines that took."""
    everybody = [name for some in study.subjects.values() for name in some]
    require_answerable(study, everybody, settings.generate.tasks, "generate.tasks")
    lines = unanswered(study, names, settings.generate.tasks)
    for line in lines[:5]:
        log.warning("validation: %s; it is left out of this task", line)
    if len(lines) > 5:
        log.warning("validation: and %d more of the kind", len(lines) - 5)
    return len(lines)


def check_validation_tasks(settings: Settings, study: Study) -> None:
    """`check_tasks` where frames are generated beside training, and something to stop on where they stop it."""
    wanted = settings.train.validation
    names = study.subjects.get("val", ())[: wanted.subjects]
    if not wanted.generate_every or not names:
        return
    lacking = check_tasks(settings, study, names)
    if (
        wanted.patience is not None
        and wanted.stop_on == "psnr"
        and lacking == len(names) * len(settings.generate.tasks)
    ):
        raise ConfigError(
            "train.validation.stop_on: none of its subjects has the frames of any of generate.tasks, so that there is "
            "no psnr; change the tasks, raise train.validation.subjects, or stop on loss"
        )
