"""A whole run on visits: a BIDS study of few scans at uneven ages, with covariates, shards on an object store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from sadm_ray import steps
from sadm_ray.config import Settings
from sadm_ray.config.settings_file import with_values
from sadm_ray.data.shards.prepared_study import rows_of
from sadm_ray.data.shards.subject_row import parse_row
from sadm_ray.errors import ConfigError
from sadm_ray.model.pretrained import StoredModel
from tests.data.patients import write_bids, write_table

pytestmark = pytest.mark.ray

SEXES = ("F", "M", "n/a")


def bids_study(root: Path) -> Path:
    """Ten subjects of two to five visits, and one of a single visit; the first visit is at the age of their number."""
    visits = {f"{n:02d}": {str(v): 20 + n + v * (1 + n / 10) for v in range(1, 2 + n % 4 + 1)} for n in range(10)}
    write_bids(root, {**visits, "once": {"1": 30}})
    sexes = "".join(f"\nsub-{name} {SEXES[number % 3]}" for number, name in enumerate([*visits, "once"]))
    write_table(root / "participants.tsv", f"participant_id sex{sexes}")
    return root


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("visits")
    return Settings.model_validate(
        {
            "run": {"name": "visits", "dir": str(folder / "runs")},
            "data": {
                "root": str(bids_study(folder / "bids")),
                "layout": "bids",
                "orientation": "canonical",
                "shape": [4, 16, 16],
                "frames": None,
                "intensity": {"method": "percentile"},
                "split": {"method": "balanced", "val": 0.2, "test": 0.3},
            },
            "model": {
                "conditioner": {"widths": [8, 16], "heads": 2, "layers": 1, "channels": 4, "time_scale": 5.0},
                "prior": {"widths": [16, 16], "blocks": 1, "heads": 2},
                "denoiser": {"widths": [16, 16], "blocks": 1, "heads": 2},
                "covariates": [{"name": "sex", "levels": ["F", "M"]}],
            },
            "train": {
                "steps": 2,
                "batch_size": 4,
                "workers": 1,
                "checkpoint_every": 2,
                "subjects_in_memory": 2,
                "targets_per_subject": 2,
                "augment": {"flip": [0, 0, 0.5], "gain": 0.1},
            },
            "sampling": {"sampler": "ddim"},
            "tune": {"trials": 1, "subjects": 2, "num_steps": [1], "sampler": ["ddim"]},
            "generate": {
                "samples": 1,
                "actors": 1,
                "tasks": [
                    {"name": "last", "observed": [0], "targets": [-1]},
                    {"name": "third", "observed": [0, 1], "targets": [2]},
                ],
            },
        }
    )


def test_all_visits_at_their_ages(
    settings: Settings, ray_local: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = steps.prepare(settings)
    assert study.time_unit == "weeks"
    assert len(study.problems) == 1
    assert "sub-once" in study.problems[0]
    rows = {
        row["subject"]: row
        for split in study.subjects
        for row in map(parse_row, rows_of(study, study.names(split)).take())
    }
    assert {name: len(row["times"]) for name, row in rows.items()} == {f"{n:02d}": 2 + n % 4 for n in range(10)} | {
        f"{n:02d}": 1 + n % 4 + 1 for n in range(10)
    }
    np.testing.assert_allclose(rows["03"]["times"], [20 + 3 + v * 1.3 for v in range(1, 6)], rtol=1e-6)
    assert json.loads(rows["01"]["covariates"])["subject"]["sex"] == "M"

    impossible = with_values(settings, {"generate.tasks": [{"name": "much", "observed": [0], "targets": [25]}]})
    for step in (steps.train, steps.tune_training, steps.estimate, steps.compare):
        with pytest.raises(ConfigError, match=r"generate\.tasks: no subject can answer 'much'"):
            step(impossible)
    assert not (settings.run_dir / "model.ray").exists()
    steps.train(settings)
    told = [record.getMessage() for record in caplog.records]
    lacking = [line for line in told if "hence no frame 2 for task 'third'" in line]
    short = [name for name in study.subjects["val"] if len(rows[name]["times"]) < 3]
    assert sorted(lacking) == sorted(
        f"validation: subject {name} has {len(rows[name]['times'])} frames, hence no frame 2 for task 'third'; it is "
        "left out of this task"
        for name in short
    )
    for step in (steps.tune, steps.generate):
        with pytest.raises(ConfigError, match=r"generate\.tasks: no subject can answer 'much'"):
            step(impossible)
    with pytest.raises(ConfigError, match=r"generate\.at: 10000000000 is too far from the scans"):
        steps.generate(with_values(settings, {"generate.at": [30.0, 1e10]}))
    steps.tune(settings)
    generated = steps.generate(settings)
    too_short = {name for name in study.subjects["test"] if len(rows[name]["times"]) < 3}
    assert {(name, "third") for name in too_short} == set(generated.failures)
    assert all("frames, hence no frame 2" in reason for reason in generated.failures.values())
    for name in study.subjects["test"]:
        file = next((settings.run_dir / "generated" / f"sub-{name}").glob("ses-*/anat/*_desc-lastEstimate_T1w.nii.gz"))
        original = nib.load(next(Path(str(settings.data.root), f"sub-{name}", "ses-1", "anat").glob("*_T1w.nii.gz")))
        image = nib.load(file)
        assert image.shape == original.shape, "back in its own orientation and grid"
        np.testing.assert_array_equal(image.affine, original.affine)
        sidecar: dict[str, Any] = json.loads(file.with_name(file.name.replace(".nii.gz", ".json")).read_text())
        assert sidecar["Time"] == pytest.approx(float(rows[name]["times"][-1]), abs=1e-3)
        assert sidecar["TimeUnit"] == "weeks"
    evaluation = steps.evaluate(settings)
    assert not [line for line in caplog.messages if "samples of a frame" in line]
    more = settings.generate.model_copy(update={"samples": 2, "out": str(tmp_path / "two")})
    steps.generate(settings.model_copy(update={"generate": more}))  # in a single step, which is all the sweep may take
    (line,) = (line for line in caplog.messages if "samples of a frame" in line)
    assert line.startswith("no more than 1 of the 2 samples of a frame will differ: sadm with sampling.num_steps=1")

    second = with_values(settings, {"run.name": "second", "train.seed": 1, "data.shards": study.location})
    steps.train(second)
    caplog.clear()
    dealt = {"samples": 2, "ensemble": (str(second.run_dir / "model"),), "out": str(tmp_path / "dealt")}
    steps.generate(settings.model_copy(update={"generate": settings.generate.model_copy(update=dealt)}))
    assert not [line for line in caplog.messages if "samples of a frame" in line]
    one, two = sorted((tmp_path / "dealt").glob("sub-*/ses-*/anat/*_desc-lastSample[12]_T1w.nii.gz"))[:2]
    assert np.abs(nib.load(one).get_fdata() - nib.load(two).get_fdata()).max() > 0, "one of each model"
    checkpoints = json.loads(one.with_name(one.name.replace(".nii.gz", ".json")).read_text())["Checkpoint"]
    assert checkpoints == [StoredModel.read(each.run_dir / "model").digest for each in (settings, second)]
    assert {"copy-last", "estimate"} <= set(evaluation.table["method"])
