"""A whole run on a tiny phantom: every step, its files, its MLflow runs, and doing it again."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from sadm_ray import steps
from sadm_ray.config import Settings
from sadm_ray.config.settings_file import with_values
from sadm_ray.data.find import find_subjects
from sadm_ray.data.shards.fingerprints import fingerprints
from sadm_ray.errors import ConfigError, DataError
from sadm_ray.model.pretrained import StoredModel
from sadm_ray.tracking import step_history, tracking_uri
from tests.tiny import settings_for

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> dict[str, Any]:
    products = ["estimate", "samples", "std", "lower", "upper"]
    values = {"generate.actors": 2, "generate.estimates": products, "generate.level": 0.6, "calibrate.draws": 4}
    settings = with_values(settings_for(tmp_path_factory.mktemp("runs")), values)
    order = ("prepare", "train", "tune", "calibrate", "generate", "evaluate")
    results = {step: getattr(steps, step)(settings) for step in order}
    return {"settings": settings, **results}


def test_every_target_of_every_subject_is_written_in_its_own_grid(journey: dict[str, Any]) -> None:
    settings, study = journey["settings"], journey["prepare"]
    catalog = find_subjects(str(settings.run_dir / "study"), settings.data)
    originals = {subject.name: subject for subject in catalog.subjects}
    generated = settings.run_dir / "generated"
    files = sorted(generated.glob("sub-*/anat/*_cine.nii.gz"))
    label_maps = list(generated.glob("sub-*/anat/*_dseg.nii.gz"))
    assert len(files) == len(study.subjects["test"]) * 2 * 6  # tasks × products
    assert len(label_maps) == len(study.subjects["test"]) * 2 * 3  # of the estimate and both samples
    assert len(files) + len(label_maps) == journey["generate"].volumes
    assert journey["generate"].failures == {}
    for file in files:
        image = nib.load(file)
        subject = originals[file.parent.parent.name.removeprefix("sub-")]
        original = nib.load(settings.run_dir / "study" / subject.scans[0].file)
        assert image.shape[:3] == original.shape[:3]
        assert np.array_equal(image.affine, original.affine)
        assert image.header.get_zooms()[:3] == pytest.approx(original.header.get_zooms()[:3])
        sidecar = json.loads(file.with_name(file.name.replace(".nii.gz", ".json")).read_text())
        assert "not for clinical use" in sidecar["Notice"]
        assert sidecar["Subject"] == subject.name
        assert sidecar["ObservedTimes"][0] == 0.0
        seen = [time for time, made in zip(sidecar["Times"], sidecar["Generated"], strict=True) if not made]
        assert seen == sidecar["ObservedTimes"]
        assert image.shape[3] == len(sidecar["Times"]) == len(seen) + (2 if sidecar["Task"] == "future" else 1)


def test_intensities_are_the_subjects_own(journey: dict[str, Any]) -> None:
    settings = journey["settings"]
    for folder in (settings.run_dir / "generated").glob("sub-*"):
        name = folder.name.removeprefix("sub-")
        original = np.asarray(nib.load(settings.run_dir / "study" / name / f"{name}_4d.nii.gz").dataobj)
        sample = nib.load(next(folder.glob("anat/*desc-futureSample1_cine.nii.gz"))).get_fdata()[..., -1]
        assert original.min() - 1 <= sample.min() < sample.max() <= original.max() + 1
        assert np.corrcoef(sample.ravel(), original[..., 0].ravel())[0, 1] > 0.5
        spread = nib.load(next(folder.glob("anat/*desc-futureStd_cine.nii.gz"))).get_fdata()[..., -1]
        assert spread.min() >= 0
        assert spread.max() < np.ptp(original)


def test_the_model_is_calibrated_on_held_out_subjects_and_gives_bounds(journey: dict[str, Any]) -> None:
    settings, study, fitted = journey["settings"], journey["prepare"], journey["calibrate"]
    assert fitted.subjects == len(study.subjects["val"]) == 2
    assert set(fitted.misses) == {"future", "gap"}
    assert all(misses.subjects == 2 for misses in fitted.misses.values())
    assert StoredModel.read(settings.run_dir / "model").recalibration == fitted
    assert fitted.fits(journey["tune"].best)
    for folder in (settings.run_dir / "generated").glob("sub-*"):
        volumes = {}
        for name in ("Lower", "Estimate", "Upper"):
            file = next(folder.glob(f"anat/*desc-gap{name}_cine.nii.gz"))
            volumes[name] = nib.load(file).get_fdata()
            sidecar = json.loads(file.with_name(file.name.replace(".nii.gz", ".json")).read_text())
            assert "at least 60 %" in sidecar["Bounds"]
            assert "2 held-out subjects for the task gap" in sidecar["Bounds"]
        made = sidecar["Generated"].index(True)
        assert (volumes["Lower"][..., made] < volumes["Estimate"][..., made]).all()
        assert (volumes["Estimate"][..., made] < volumes["Upper"][..., made]).all()
        np.testing.assert_array_equal(volumes["Lower"][..., 0], volumes["Upper"][..., 0], err_msg="what was observed")
    scored = journey["evaluate"].calibration
    assert (scored["bounds_level"] == 0.6).all()
    assert scored["bounds_hold"].between(0, 1).all()


def test_cross_fitting_holds_everybody_out_once(journey: dict[str, Any]) -> None:
    settings = with_values(journey["settings"], {"calibrate.folds": 2, "calibrate.draws": 2})
    study, stored = journey["prepare"], settings.run_dir / "model" / "recalibration.json"
    before = stored.read_bytes()
    try:
        fitted = steps.calibrate(settings)
    finally:
        stored.write_bytes(before)  # the other tests have the first one's
    names = study.subjects["train"]
    assert (fitted.subjects, fitted.folds) == (len(names), 2)
    for fold in range(2):
        seen = StoredModel.read(settings.run_dir / "calibration" / f"fold-{fold}" / "model").seen
        who = fingerprints(study)
        held_out = set(names[fold::2])
        assert {name for name in names if seen.seen_as(who[name]) == "train"} == set(names) - held_out


def test_the_table_has_copy_last_beside_every_task(journey: dict[str, Any]) -> None:
    table = journey["evaluate"].table.set_index(["task", "method"])
    assert set(table.index.get_level_values("task")) == {"future", "gap"}
    for task in ("future", "gap"):
        assert {"copy-last", "estimate", "sample", "mean of 2"} <= set(table.loc[task].index)
    assert (table["subjects"] == len(journey["prepare"].subjects["test"])).all()
    assert journey["evaluate"].problems == ()


def test_the_report_stands_and_names_what_it_shows(journey: dict[str, Any]) -> None:
    text = (journey["settings"].run_dir / "report.html").read_text()
    assert "copy-last" in text
    assert "data:image/png" in text
    assert journey["prepare"].digest[:16] in text


def test_mlflow_has_the_run_its_steps_and_its_trials(journey: dict[str, Any]) -> None:
    from mlflow import MlflowClient

    settings = journey["settings"]
    client = MlflowClient(tracking_uri(settings))
    experiment = client.get_experiment_by_name("sadm-ray")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    parent = runs["tiny"].info.run_id
    for step in ("prepare", "train", "tune", "calibrate", "generate", "evaluate"):
        run = runs[f"tiny/{step}"]
        assert run.data.tags["mlflow.parentRunId"] == parent
        assert run.info.status == "FINISHED"
    sweep = runs["tiny/tune"].info.run_id
    trials = [run for run in runs.values() if run.data.tags.get("mlflow.parentRunId") == sweep]
    assert len(trials) == 3
    assert all({"psnr", "copy_last", "gain"} <= set(run.data.metrics) for run in trials)
    assert [step for step, _ in step_history(settings, "train", "loss")] == [1, 2, 3, 4]
    assert "report.html" in [file.path for file in client.list_artifacts(runs["tiny/evaluate"].info.run_id)]


def test_the_sweep_chooses_on_validation_subjects(journey: dict[str, Any]) -> None:
    swept, study = journey["tune"], journey["prepare"]
    assert set(swept.subjects) <= set(study.subjects["val"])
    assert len(swept.trials) == 3
    assert f"num_steps: {swept.best.num_steps}" in (journey["settings"].run_dir / "tuned.yaml").read_text()


def test_the_same_command_again_goes_on_where_it_was(journey: dict[str, Any]) -> None:
    before = journey["settings"]
    longer = settings_for(before.run.dir, steps=6)
    steps.train(longer)
    # Steps 1 to 4 were not done again: MLflow would have their points twice.
    history = [step for step, _ in step_history(longer, "train", "loss")]
    assert history == [1, 2, 3, 4, 5, 6]
    states = (before.run_dir / "model.ray" / "checkpoints").glob("checkpoint-*/state.json")
    assert max(json.loads(state.read_text())["step"] for state in states) == 6
    # And once it is done, again is nothing at all.
    weights = (before.run_dir / "model" / "model.safetensors").read_bytes()
    steps.train(longer)
    assert (before.run_dir / "model" / "model.safetensors").read_bytes() == weights


def test_a_run_is_not_continued_with_another_model(journey: dict[str, Any]) -> None:
    tree = journey["settings"].model_dump()
    tree["model"]["denoiser"]["blocks"] = 2
    with pytest.raises(ConfigError, match=r"model\.denoiser\.blocks \(1 before, 2 now\)"):
        steps.train(Settings.model_validate(tree))


def test_a_model_of_another_preparation_is_refused(journey: dict[str, Any]) -> None:
    settings, study = journey["settings"], journey["prepare"]
    tree = settings.model_dump()
    tree["data"] |= {"intensity": {"method": "zscore", "over": "first"}, "shards": str(settings.run_dir / "other")}
    # The settings of the sweep were chosen, and the model calibrated, for the weights of a shorter training.
    tree["generate"] |= {"tuned": False, "estimates": ["estimate"]}
    other = Settings.model_validate(tree)
    prepared = steps.prepare(other)
    for step in (steps.tune, steps.generate):
        with pytest.raises(ConfigError, match="prepared with other settings") as caught:
            step(other)
        assert study.preparation[:12] in str(caught.value)
        assert prepared.preparation[:12] in str(caught.value)


def test_shards_of_other_settings_are_refused(journey: dict[str, Any]) -> None:
    tree = journey["settings"].model_dump()
    tree["data"]["frames"] = 8
    with pytest.raises(ConfigError, match="prepared with other data settings"):
        steps.train(Settings.model_validate(tree))


def test_steps_out_of_order_say_what_is_missing(tmp_path: Path, ray_local: None) -> None:
    settings = settings_for(tmp_path)
    with pytest.raises(DataError, match="prepare"):
        steps.train(settings)
    steps.prepare(settings)
    with pytest.raises(DataError, match="train one first"):
        steps.generate(settings)
    with pytest.raises(DataError, match="train one first"):
        steps.tune(settings)
    with pytest.raises(DataError, match="generate some first"):
        steps.evaluate(settings)


def test_a_damaged_scan_is_listed_and_the_others_go_on(tmp_path: Path, ray_local: None) -> None:
    settings = settings_for(tmp_path)
    study = steps.prepare(settings)
    total = sum(map(len, study.subjects.values()))
    victim = settings.run_dir / "study" / "patient003" / "patient003_4d.nii.gz"
    victim.write_bytes(victim.read_bytes()[:2000])
    again = steps.prepare(settings)
    assert sum(map(len, again.subjects.values())) == total - 1
    assert len(again.problems) == 1
    assert "patient003_4d.nii.gz" in again.problems[0]
