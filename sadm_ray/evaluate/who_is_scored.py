"""In words: whose scores are shown, derived from whom the model has seen."""

from __future__ import annotations

from sadm_ray.evaluate.evaluation_job import Evaluation
from sadm_ray.model.seen_subjects import SeenAs

TITLES: dict[SeenAs, str] = {
    "test": "Test subjects",
    "unknown": "Subjects that the model may have seen: it is not recorded whom it was trained on",
    "val": "Validation subjects: weights or settings were chosen on them",
    "train": "Training subjects: the model was trained on them",
}
_APART: dict[SeenAs, str] = {
    "unknown": "it is not recorded whether the model has seen them",
    "val": "weights or settings were chosen on them",
    "train": "the model was trained on them",
}


def who_is_scored(evaluation: Evaluation) -> list[str]:
    """Sentences on whom the scores are of, and who is listed apart."""
    count = _subjects(evaluation)
    trained_on, chosen_on = evaluation.seen.counts
    if not count:
        first = "The model has seen every subject that was predicted: nothing is concluded from their scores."
    elif evaluation.split == "test":
        first = (
            f"Scores are of {_people(count, 'test subject')}, none of whom the model has seen: it was trained on "
            f"{_people(trained_on, 'other')}, and {_people(chosen_on, 'other')} served to choose weights and settings."
        )
    else:
        first = (
            f"It is not recorded whom the model has seen: the {_people(count, 'subject')} scored here may be among "
            "those that it was trained on."
        )
    apart = [
        f"{_people(_subjects(each), 'more subject')} listed apart: {_APART[each.split]}." for each in evaluation.others
    ]
    return [first, *apart]


def _subjects(evaluation: Evaluation) -> int:
    scored = evaluation.metrics[evaluation.metrics["error"] == ""]
    return int(scored["subject"].nunique())


def _people(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
