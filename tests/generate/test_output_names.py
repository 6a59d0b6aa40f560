"""What is written into an output folder beside the tasks' folders cannot be a task's name."""

from sadm_ray.config import OUTPUT_NAMES
from sadm_ray.generate.bids_dataset import DESC_LABELS, DESCRIPTION, README
from sadm_ray.generate.generation_job import FAILURES
from sadm_ray.generate.generation_record import MANIFEST, PREDICTIONS, REQUEST
from sadm_ray.generate.unprepared_study import SHARDS
from sadm_ray.model.seen_subjects import SEEN


def test_every_file_of_ours_is_among_the_names() -> None:
    ours = {FAILURES, MANIFEST, PREDICTIONS, REQUEST, SEEN, SHARDS, DESCRIPTION, DESC_LABELS, README.lower(), "readme"}
    assert ours <= OUTPUT_NAMES
    assert {name.lower() for name in OUTPUT_NAMES} == OUTPUT_NAMES
