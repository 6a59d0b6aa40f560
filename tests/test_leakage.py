"""Nobody whom a model has seen passes as its test subject, whatever is split, copied or mixed up between the steps."""

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from sadm_ray import steps
from sadm_ray.config import Settings
from sadm_ray.config.settings_file import with_values
from sadm_ray.data.shards.fingerprints import fingerprints
from sadm_ray.data.shards.prepared_study import Study, read_study
from sadm_ray.errors import ConfigError
from sadm_ray.evaluate.evaluation_job import Evaluation
from sadm_ray.evaluate.who_is_scored import who_is_scored
from sadm_ray.model.pretrained import StoredModel, load_model
from sadm_ray.model.seen_subjects import SEEN, SeenSubjects
from sadm_ray.steps.run_folder import shards_folder
from sadm_ray.storage import Storage
from sadm_ray.tracking import tracking_uri
from tests.tiny import settings_for

pytestmark = pytest.mark.ray
FEW: dict[str, Any] = {"generate.samples": 1, "evaluate.pictures": 1, "generate.actors": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> tuple[Settings, Study]:
    settings = with_values(settings_for(tmp_path_factory.mktemp("runs"), workers=1, steps=2), FEW)
    study = steps.prepare(settings)
    steps.train(settings)
    return settings, study


def copied(settings: Settings, to: Path) -> tuple[Settings, Study]:
    shutil.copytree(settings.run_dir, to / settings.run_dir.name)
    copy = with_values(settings, {"run.dir": str(to)})
    return copy, read_study(shards_folder(copy))


@pytest.fixture(scope="module")
def generated(trained: tuple[Settings, Study], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings, _ = copied(trained[0], tmp_path_factory.mktemp("generated"))
    steps.generate(settings)
    return settings


@pytest.fixture
def run(trained: tuple[Settings, Study], tmp_path: Path) -> tuple[Settings, Study]:
    """A copy of the run's folder, to do harm to."""
    return copied(trained[0], tmp_path)


@pytest.fixture
def predicted(generated: Settings, tmp_path: Path) -> Settings:
    """The same with the test subjects' predictions."""
    return copied(generated, tmp_path)[0]


def splits_of(evaluation: Evaluation) -> dict[str, str]:
    tables = [each.metrics for each in (evaluation, *evaluation.others)]
    return dict(pd.concat(tables)[["subject", "split"]].itertuples(index=False))


def test_the_model_carries_who_taught_it_without_a_name(trained: tuple[Settings, Study]) -> None:
    settings, study = trained
    text = (settings.run_dir / "model" / SEEN).read_text()
    seen, who = SeenSubjects.from_json(json.loads(text)), fingerprints(study)
    for split, names in study.subjects.items():
        assert {seen.seen_as(who[name]) for name in names} == {split}
        assert not any(name in text for name in names)
    assert seen.counts == (len(study.subjects["train"]), len(study.subjects["val"]))


@pytest.mark.parametrize(
    "split",
    [
        {"data.split.test": 0.5},
        pytest.param({"data.split.folds": 3, "data.split.fold": 1}, marks=pytest.mark.slow),
        pytest.param({"seed": 7}, marks=pytest.mark.slow),
    ],
)
def test_another_split_under_the_same_name(
    run: tuple[Settings, Study], split: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    settings, before = run
    phantom = {"data.root": str(settings.run_dir / "study")}  # another seed would draw another phantom
    again = with_values(settings, split | phantom)
    study = steps.prepare(again)
    tested, taught = set(study.subjects["test"]), set(before.subjects["train"])
    assert tested & taught

    with pytest.raises(ConfigError, match=r"begun with other settings: .*study.train \(\d+ subjects, \w+ before, \d+"):
        steps.train(again)
    steps.generate(again)
    assert "the model was trained, or something was chosen, on" in caplog.text
    evaluation = steps.evaluate(again)
    expected = {name: next(split for split, names in before.subjects.items() if name in names) for name in tested}
    assert splits_of(evaluation) == expected
    new = tested & set(before.subjects["test"])
    assert set(evaluation.metrics["subject"]) == new
    text = (again.run_dir / "report.html").read_text()
    if new:
        assert f"Scores are of {len(new)} test subject" in text
    else:
        assert "The model has seen every subject that was predicted" in text
        assert evaluation.table.empty
    assert "Training subjects: the model was trained on them" in text


def test_settings_are_not_chosen_on_those_who_were_trained_on(run: tuple[Settings, Study]) -> None:
    settings, before = run
    again = with_values(settings, {"data.split.val": 0.6})
    assert set(steps.prepare(again).subjects["val"]) & set(before.subjects["train"])
    with pytest.raises(ConfigError, match=r"the model was trained on .* validation subjects .* another run.name"):
        steps.tune(again)


def test_all_subjects_are_scored_by_split(run: tuple[Settings, Study]) -> None:
    settings, study = run
    steps.generate(with_values(settings, {"generate.split": "all"}))
    evaluation = steps.evaluate(settings)
    assert splits_of(evaluation) == {name: split for split, names in study.subjects.items() for name in names}
    assert set(evaluation.metrics["subject"]) == set(study.subjects["test"])
    table = pd.read_csv(settings.run_dir / "evaluation" / "table.csv")
    for split, rows in table.groupby("split"):
        assert set(rows["subjects"]) == {len(study.subjects[str(split)])}
    assert set(table["split"]) == {"train", "val", "test"}
    sentences = who_is_scored(evaluation)
    assert sentences[0].startswith(f"Scores are of {len(study.subjects['test'])} test subjects, none of whom")
    assert f"trained on {len(study.subjects['train'])} others" in sentences[0]
    text = (settings.run_dir / "report.html").read_text()
    assert all(sentence in text for sentence in sentences)
    assert "Subjects listed apart" in text


def test_copies_under_other_names_in_another_study_are_recognised(run: tuple[Settings, Study], tmp_path: Path) -> None:
    settings, study = run
    (taught, saved_anew), unknown = study.subjects["train"][:2], study.subjects["test"][0]
    for name, source in (("patient901", taught), ("patient902", unknown), ("patient903", saved_anew)):
        shutil.copytree(settings.run_dir / "study" / source, tmp_path / "other" / name)
        for file in (tmp_path / "other" / name).iterdir():
            copy = file.rename(file.with_name(file.name.replace(source, name)))
            if source == saved_anew and copy.name.endswith("_4d.nii.gz"):
                image, before = nib.load(copy), copy.read_bytes()
                image.header["descrip"] = b"exported again"
                nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header), copy)
                assert copy.read_bytes() != before
    elsewhere = with_values(
        settings,
        {
            "run.name": "elsewhere",
            "data.root": str(tmp_path / "other"),
            "data.split.test": 0.9,
            "data.split.val": 0.0,
            "data.dtype": "uint8",  # stored otherwise, which a model does not mind
            "generate.split": "all",
            "generate.model": str(settings.run_dir / "model"),
        },
    )
    steps.prepare(elsewhere)
    steps.generate(elsewhere)
    assert splits_of(steps.evaluate(elsewhere)) == {"patient901": "train", "patient902": "test", "patient903": "train"}


def test_a_model_that_does_not_say_who_taught_it_is_not_judged_as_if_it_did(predicted: Settings) -> None:
    settings = predicted
    (settings.run_dir / "model" / SEEN).unlink()  # as an earlier version left it
    steps.generate(settings)
    evaluation = steps.evaluate(settings)
    assert evaluation.split == "unknown"
    assert "It is not recorded whom the model has seen" in (settings.run_dir / "report.html").read_text()


def test_another_model_in_the_folder_is_not_given_the_old_ones_scores(predicted: Settings) -> None:
    file = predicted.run_dir / "model" / "config.json"
    file.write_text(file.read_text() + "\n")
    with pytest.raises(ConfigError, match=r"drawn by other models .* generate\.replace=true"):
        steps.evaluate(predicted)


def test_predictions_that_another_model_drew_are_not_scored_as_this_ones(predicted: Settings) -> None:
    victim, *others = sorted((predicted.run_dir / "generated" / "predictions").glob("*.parquet"))
    table = pq.read_table(victim)
    about = json.loads(table.schema.metadata[b"sadm_ray"]) | {"models": ["of another run"]}
    pq.write_table(table.replace_schema_metadata({b"sadm_ray": json.dumps(about).encode()}), victim)
    evaluation = steps.evaluate(predicted)
    assert evaluation.problems
    assert all(line.startswith(victim.stem) and "drawn by other models" in line for line in evaluation.problems)
    assert set(evaluation.metrics[evaluation.metrics["error"] == ""]["subject"]) == {other.stem for other in others}


def test_checkpoints_do_not_go_from_one_split_to_another(run: tuple[Settings, Study]) -> None:
    settings, _ = run
    other = with_values(settings, {"run.name": "other", "data.split.folds": 3, "data.split.fold": 1, "train.steps": 3})
    steps.prepare(other)
    here, there = (each.run_dir / "model.ray" / "checkpoints" for each in (settings, other))
    there.mkdir(parents=True)
    shutil.copytree(here / "checkpoint-00000002", there / "checkpoint-00000002")
    with pytest.raises(ConfigError, match=r"has checkpoints, but no run\.json, so that nobody knows"):
        steps.train(other)
    shutil.rmtree(there)
    steps.train(with_values(other, {"train.steps": 1}))
    shutil.copytree(here / "checkpoint-00000002", there / "checkpoint-00000002")
    with pytest.raises(ConfigError, match=r"checkpoint-00000002: is of a training on other subjects"):
        steps.train(other)


def test_who_taught_the_start_model_taught_the_one_that_starts_from_it(
    run: tuple[Settings, Study], caplog: pytest.LogCaptureFixture
) -> None:
    settings, before = run
    start = settings.run_dir / "model"
    changes = {
        "run.name": "warm",
        "data.root": str(settings.run_dir / "study"),
        "data.split.folds": 3,
        "data.split.fold": 1,
        "train.start_from": str(start),
        "train.learning_rate": 1e-9,
        "train.warmup_steps": 0,
    }
    warm = with_values(settings, changes)
    study = steps.prepare(warm)
    taught = [name for name in study.subjects["test"] if name in before.subjects["train"]]
    assert taught
    with pytest.raises(ConfigError, match=r"train\.start_from: .* is a model of kind sadm, and this run trains one of"):
        steps.train(with_values(warm, {"model.kind": "regression"}))
    steps.train(warm)
    one, other = load_model(start), load_model(warm.run_dir / "model")
    for (name, a), (_, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0, msg=name)
    assert other.config.model.difference_scale == pytest.approx(study.difference_scale)
    assert "are taken" in caplog.text
    known = [name for name in study.subjects["test"] if name not in before.subjects["test"]]
    assert f"on {len(known)} of this run's {len(study.subjects['test'])} test subjects" in caplog.text

    start.rename(start.with_name("gone"))  # a run that goes on does not need it
    longer = with_values(warm, {"train.steps": 3})
    steps.train(longer)
    seen, who = SeenSubjects.read(Storage(str(warm.run_dir / "model"))), fingerprints(study)
    expected = {name: next(split for split, names in before.subjects.items() if name in names) for name in who}
    for split, names in study.subjects.items():
        for name in names:
            assert seen.seen_as(who[name]) == (
                "train" if "train" in (split, expected[name]) else "val" if "val" in (split, expected[name]) else "test"
            )
    assert seen.counts[0] == sum(seen.seen_as(each) == "train" for each in who.values())
    steps.generate(longer)
    assert "the model was trained, or something was chosen, on" in caplog.text
    assert {splits_of(steps.evaluate(longer))[name] for name in taught} == {"train"}
    for other_start in (None, str(start.with_name("gone"))):
        with pytest.raises(ConfigError, match=r"begun with other settings: train\.start_from \(.*model before, "):
            steps.train(with_values(longer, {"train.start_from": other_start}))


def test_weights_that_were_copied_alone_do_not_get_the_list_of_others(
    run: tuple[Settings, Study], caplog: pytest.LogCaptureFixture
) -> None:
    settings, _ = run
    model = settings.run_dir / "model"
    assert StoredModel.read(model).seen.complete
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes() + b" ")
    assert not StoredModel.read(model).seen.complete
    assert "seen_subjects.json: is not of the weights that lie beside it" in caplog.text


def test_predictions_of_scans_that_were_prepared_otherwise_are_not_scored(predicted: Settings) -> None:
    again = with_values(predicted, {"data.intensity.over": "all"})
    steps.prepare(again)
    evaluation = steps.evaluate(again)
    assert evaluation.table.empty
    assert evaluation.problems
    assert all("made from other scans, or from scans prepared otherwise" in line for line in evaluation.problems)


def test_a_sweep_holds_for_the_weights_it_was_made_with(run: tuple[Settings, Study]) -> None:
    settings, study = run
    few = with_values(settings, {"tune.trials": 1})
    steps.tune(few)
    tree = yaml.safe_load((settings.run_dir / "tuned.yaml").read_text())
    who = fingerprints(study)
    assert {SeenSubjects.from_json(tree["seen"]).seen_as(who[name]) for name in study.subjects["val"]} == {"val"}
    file = settings.run_dir / "model" / "config.json"
    file.write_text(file.read_text() + "\n")
    with pytest.raises(ConfigError, match=r"tuned.yaml: chosen for other weights .* run `sadm-ray tune` again"):
        steps.generate(few)
    steps.generate(with_values(few, {"generate.tuned": False}))


@pytest.mark.slow
def test_those_on_whom_settings_of_training_were_chosen_are_no_test_subjects(run: tuple[Settings, Study]) -> None:
    settings, study = run
    chosen = study.subjects["test"][0]
    given = {"run.name": "given", "train.chosen_on": sorted(fingerprints(study)[chosen])}
    named = with_values(
        settings, {**given, "data.shards": study.location, "data.root": str(settings.run_dir / "study")}
    )
    steps.train(with_values(settings, {**given, "data.shards": study.location}))
    seen = SeenSubjects.read(Storage(str(named.run_dir / "model")))
    assert seen.seen_as(fingerprints(study)[chosen]) == "val"


@pytest.mark.slow
def test_a_model_that_is_trained_anew_has_a_run_and_a_version_of_its_own(run: tuple[Settings, Study]) -> None:
    from mlflow import MlflowClient

    settings, _ = run
    shutil.rmtree(settings.run_dir / "model.ray")
    other = with_values(settings, {"train.learning_rate": 3e-4})
    steps.train(other)
    client = MlflowClient(tracking_uri(other))
    experiment = client.get_experiment_by_name("sadm-ray")
    runs = [
        each
        for each in client.search_runs([experiment.experiment_id])
        if each.info.run_name == f"{other.run.name}/train"
    ]
    assert sorted(each.data.params["train.learning_rate"] for each in runs) == ["0.0003", "0.002"]
    assert {each.run_id for each in client.search_model_versions(f"name = '{other.run.name}'")} == {
        each.info.run_id for each in runs
    }
