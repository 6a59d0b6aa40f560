"""The data card and the model card: what a reader must know before trusting a number or using the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sadm_ray import __version__
from sadm_ray.config import DataSettings, SamplingSettings, TrainSettings
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.evaluate.score_tables import Verdict
from sadm_ray.model.seen_subjects import SeenSubjects

if TYPE_CHECKING:
    from sadm_ray.model.base_model import SequenceModel

_SPLITS = {"train": "training", "val": "validation", "test": "test"}
_TARGETS = {
    "volume": "the volume itself",
    "difference": "the difference from the nearest observed frame",
    "motion": "the difference from the nearest observed frame, moved by the estimated motion",
}
_INTENSITY = {
    "minmax": "minimum and maximum become 0 and 1",
    "percentile": "percentiles 0.5 and 99.5 become 0 and 1, values outside are cut off",
    "zscore": "mean ± 3 standard deviations become 0 and 1",
}


@dataclass(frozen=True)
class Card:
    """A heading, facts by name, and sentences below them."""

    title: str
    facts: Mapping[str, str]
    sentences: Sequence[str] = field(default=())


def data_card(study: Study, name: str, settings: DataSettings) -> Card:
    """The subjects of the study, and how their scans were prepared.

    Args:
        name: what the study is called.
        settings: those it was prepared with.
    """
    splits = [f"{len(names)} {_SPLITS.get(split, split)}" for split, names in study.subjects.items()]
    over = "the first scan" if settings.intensity.over == "first" else "all scans"
    voxels = (
        " × ".join(f"{size:g}" for size in settings.spacing) + " mm" if settings.spacing else "by the field of view"
    )
    return Card(
        "Data",
        {
            "study": name,
            "subjects": f"{sum(map(len, study.subjects.values()))}: {', '.join(splits)}",
            **({"contrasts": " and ".join(study.contrasts)} if len(study.contrasts) > 1 else {}),
            "frames a subject": str(study.frames) if study.frames else "all visits",
            "grid": f"{' × '.join(map(str, study.shape))} voxels (d h w), voxel size {voxels}, "
            f"orientation {settings.orientation}, crop {settings.crop}",
            "time": study.time_unit,
            "intensity": f"{_INTENSITY[settings.intensity.method]}; of each subject by itself, over {over}",
            "problems while preparing": _counted(study),
            "digests": f"settings {study.digest[:16]}, preparation {study.preparation[:16]}, "
            f"content {study.content[:16]}",
        },
        ["Splits are by subject: no subject is in two of them."],
    )


def model_card(
    model: SequenceModel,
    seen: SeenSubjects,
    training: TrainSettings | None,
    sampling: SamplingSettings,
    judged: Sequence[Verdict],
    members: int = 1,
) -> Card:
    """What the model is, its intended use, what it is not for, and what was measured.

    Args:
        seen: the subjects that it was trained on, and that its weights and settings were chosen on.
        training: how it was trained; None: by another run.
        judged: its verdicts against copy-last on subjects that it has not seen.
        members: how many models drew the samples in turn; `model` is the first of them.
    """
    config = model.config
    each = f", the first of {members} that draw the samples in turn" if members > 1 else ""
    counts = {key: value for key, value in model.describe().items() if key != "kind"}
    return Card(
        "Model",
        {
            "what it does": "from the frames of a subject that were observed, and their times, it draws frames at "
            "other times",
            "kind": f"{config.model.kind}, which predicts {_TARGETS[config.model.target]}{each}",
            "size": ", ".join(f"{value:,} {key.replace('_', ' ')}" for key, value in counts.items()),
            "trained on": _trained_on(seen, training),
            "sampling": ", ".join(
                f"{key.replace('_', ' ')} {value}" for key, value in sampling.model_dump(exclude_none=True).items()
            ),
            "intended use": "research on longitudinal imaging and on generative models; nothing else",
            "not intended": "diagnosis, prognosis, treatment, or any decision about a person",
            "limits": "knows only volumes that were prepared as these were, of people and scanners like these; others "
            "were not measured. What is drawn is plausible, not observed: a detail in it is no finding, and what is "
            "missing in it is none either",
            "measured": "; ".join(f"{verdict.task}, {verdict.method}: {verdict.sentence}" for verdict in judged)
            or "nothing that could be compared",
            "preparation": config.preparation[:16] or "not recorded",
            "made with": f"sadm-ray {__version__}",
        },
    )


def _trained_on(seen: SeenSubjects, training: TrainSettings | None) -> str:
    who = f"{seen.counts[0]} subjects, with {seen.counts[1]} to choose on" if seen.complete else "whom is not recorded"
    return who + (f"; {training.steps:,} steps, {training.batch_size} sequences each" if training else "")


def _counted(study: Study) -> str:
    problems, warnings = len(study.problems), len(study.warnings)
    if not problems and not warnings:
        return "none"
    return f"{problems} left out, {warnings} used with a warning; all under Problems"
