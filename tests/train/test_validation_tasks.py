"""The tasks of validation, checked before training."""

from pathlib import Path

import numpy as np
import pytest

from sadm_ray.config import Settings
from sadm_ray.config.settings_file import with_values
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.errors import ConfigError
from sadm_ray.train.validation_tasks import check_validation_tasks
from tests.data.studies import made_row, write_study

FAR = [{"name": "far", "observed": [0], "targets": [4]}]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    rows = [made_row(f"s{n}", np.zeros((2 + 3 * (n == 0), 2, 4, 4))) for n in range(9)]
    return write_study(tmp_path, rows, {"train": ["s0"], "val": [f"s{n}" for n in range(1, 9)]})


def with_tasks(**values: object) -> Settings:
    return with_values(Settings(), {"data.frames": None, "generate.tasks": FAR} | values)


def test_subjects_that_lack_the_frames_are_told_once(study: Study, caplog: pytest.LogCaptureFixture) -> None:
    check_validation_tasks(with_tasks(**{"train.validation.subjects": 7}), study)
    assert [record.getMessage() for record in caplog.records] == [
        *(
            f"validation: subject s{n} has 2 frames, hence no frame 4 for task 'far'; it is left out of this task"
            for n in range(1, 6)
        ),
        "validation: and 2 more of the kind",
    ]


def test_a_score_that_is_needed_and_cannot_be_had_is_refused(study: Study) -> None:
    no_score = "generate.tasks: no validation subject has the frames of any of them"
    stop = {"train.validation.patience": 2, "train.validation.stop_on": "psnr"}
    for settings, scored in ((with_tasks(**stop), False), (with_tasks(), True)):
        with pytest.raises(ConfigError, match=no_score):
            check_validation_tasks(settings, study, scored=scored)
    near = [{"name": "next", "observed": [0], "targets": [1]}, *FAR]
    check_validation_tasks(with_tasks(**stop, **{"generate.tasks": near}), study, scored=True)


def test_without_generated_frames_tasks_do_not_matter(study: Study) -> None:
    much = [{"name": "much", "observed": [0], "targets": [25]}]
    with pytest.raises(ConfigError, match=r"generate\.tasks: no subject can answer 'much'"):
        check_validation_tasks(with_tasks(**{"generate.tasks": much}), study)
    check_validation_tasks(with_tasks(**{"generate.tasks": much, "train.validation.generate_every": 0}), study)
