"""What is written into an output folder beside the tasks' folders cannot be a task's name."""

from sadm_ray.config import OUTPUT_NAMES
from sadm_ray.generate.generation_job import FAILURES
from sadm_ray.generate.generation_record import MANIFEST, PREDICTIONS, REQUEST
from sadm_ray.generate.unprepared_study import SHARDS
from sadm_ray.generate.volume_writer import DESCRIPTION
from sadm_ray.model.seen_subjects import SEEN


def test_every_file_of_ours_is_among_the_names() -> None:
    assert {FAILURES, MANIFEST, PREDICTIONS, REQUEST, SEEN, SHARDS, DESCRIPTION, "readme"} <= OUTPUT_NAMES
    assert {name.lower() for name in OUTPUT_NAMES} == OUTPUT_NAMES
