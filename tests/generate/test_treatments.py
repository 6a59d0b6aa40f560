"""One subject under two treatments: from `--with` to files, records and the table of differences."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from sadm_ray import steps
from sadm_ray.cli import main
from sadm_ray.config import Settings
from sadm_ray.config.settings_file import dump_settings, with_values
from sadm_ray.data.find.label_files import label_stem
from sadm_ray.data.phantom import write_phantom
from sadm_ray.data.shards.prepared_study import Study, read_subject
from sadm_ray.errors import ConfigError
from sadm_ray.generate.generation_record import read_records
from sadm_ray.model.registry import build_model
from sadm_ray.storage import Storage
from sadm_ray.train.trainer import model_config
from tests.tiny import settings_for

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> tuple[Settings, Study]:
    """A study whose hearts are treated, with a label map at each end-diastole, and an untrained model."""
    folder = tmp_path_factory.mktemp("runs")
    settings = with_values(
        settings_for(folder),
        {
            "phantom.treatment": 0.5,
            "data.root": str(folder / "hearts"),
            "model.covariates": [{"name": "treatment", "of": "visit", "planned": True, "levels": ["A", "B"]}],
            "generate.samples": 2,
            "generate.estimates": ["samples"],
            "generate.split": "test",
        },
    )
    write_phantom(folder / "hearts", settings.phantom, settings.seed)
    study = steps.prepare(settings)
    for subject in study.names("test"):
        (source, *_) = json.loads(read_subject(study, subject)["sources"])
        scan = nib.load(folder / "hearts" / source["file"])
        labels = np.zeros(scan.shape[:3], np.uint8)
        labels[12:20, 12:20] = 3
        stem = label_stem(source["file"], source["frame"])
        nib.save(nib.Nifti1Image(labels, scan.affine), folder / "hearts" / f"{stem}.nii.gz")
    torch.manual_seed(0)
    model = build_model(model_config(settings, study))
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(settings.run_dir / "model")
    return settings, study


def asked(base: tuple[Settings, Study], out: Path, *given: str, **wanted: Any) -> Settings:
    wanted = {"out": str(out), "at": [2.0], "given": list(given), **wanted}
    return with_values(base[0], {f"generate.{key}": value for key, value in wanted.items()})


def cines(out: Path, request: str) -> dict[str, np.ndarray]:
    """Of each subject the first sample."""
    files = sorted(out.glob(f"sub-*/anat/*_desc-{request}Sample1_cine.nii.gz"))
    return {file.name.partition("_")[0]: np.asanyarray(nib.load(file).dataobj) for file in files}


@pytest.fixture(scope="module")
def made(base: tuple[Settings, Study], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both treatments of all test subjects; read it, do not change it."""
    out = tmp_path_factory.mktemp("made")
    assert steps.generate(asked(base, out, "treatment=A", "treatment=b")).failures == {}
    return out


def test_two_treatments_are_two_answers_of_one_noise(base: tuple[Settings, Study], made: Path, tmp_path: Path) -> None:
    a, b = cines(made, "visitsTreatmentA"), cines(made, "visitsTreatmentB")
    assert len(a) == len(b) == len(base[1].names("test"))
    assert all(not np.array_equal(a[name], b[name]) for name in a)
    steps.generate(asked(base, tmp_path))
    known = cines(tmp_path, "visits")
    for subject in base[1].names("test"):
        arm = json.loads(read_subject(base[1], subject)["covariates"])["subject"]["treatment"]
        name = f"sub-{subject}"
        np.testing.assert_array_equal(known[name], (a if arm == "A" else b)[name], "what the tables say, and its noise")


def test_the_records_say_what_was_given_or_known(base: tuple[Settings, Study], made: Path, tmp_path: Path) -> None:
    subject = base[1].names("test")[0]
    for level in "AB":
        (file,) = made.glob(f"sub-{subject}/anat/*_desc-visitsTreatment{level}Sample1_cine.json")
        about = json.loads(file.read_text())
        assert about["PlannedCovariates"] == [{"treatment": level}]
        assert about["Task"] == f"visits treatment={level}"
    planned = pq.read_table(made / "predictions" / f"{subject}.parquet").to_pylist()
    assert [json.loads(row["planned"]) for row in planned] == [{"treatment": "A"}, {"treatment": "B"}]
    assert "visits treatment=B" in (made / "descriptions.tsv").read_text()


def of_cavity(file: Path) -> pd.DataFrame:
    """The rows of the left cavity."""
    return pd.read_csv(file).query("structure == 'LV cavity'").reset_index(drop=True)


def test_the_differences_are_of_the_samples_with_one_noise(base: tuple[Settings, Study], made: Path) -> None:
    differences, volumes = (of_cavity(made / name) for name in ("differences.csv", "volumes.csv"))
    assert differences["subject"].tolist() == sorted(base[1].names("test"))
    assert set(differences["given"] + " less " + differences["minus"]) == {"treatment=B less treatment=A"}
    first = differences.iloc[0]
    its = volumes[(volumes["subject"] == first["subject"]) & (volumes["origin"] == "generated")]
    a, b = (its[its["task"] == f"visits treatment={level}"].sort_values("sample")["ml"].to_numpy() for level in "AB")
    assert first["estimate_ml"] == pytest.approx(b[0] - a[0])
    assert first["median_ml"] == pytest.approx(np.median((b - a)[1:]))
    assert first["low_ml"] < first["median_ml"] < first["high_ml"]
    assert first["level"] == base[0].generate.level


def test_what_is_done_is_kept_and_another_treatment_is_another_request(
    base: tuple[Settings, Study], tmp_path: Path
) -> None:
    steps.generate(asked(base, tmp_path, "treatment=A"))
    keys = {name: record and record.key for name, record in read_records(Storage(str(tmp_path))).items()}
    assert steps.generate(asked(base, tmp_path, "treatment=A")).done_before == len(keys)
    with pytest.raises(ConfigError, match=r"another request \(wanted changed\)"):
        steps.generate(asked(base, tmp_path, "treatment=B"))
    assert steps.generate(asked(base, tmp_path, "treatment=B", replace=True)).done_before == 0
    again = {name: record and record.key for name, record in read_records(Storage(str(tmp_path))).items()}
    assert all(again[name] != key for name, key in keys.items())
    assert not (tmp_path / "differences.csv").exists()


def test_the_command_line_and_a_file(
    base: tuple[Settings, Study], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text(dump_settings(base[0]))
    one, other = base[1].names("test")[:2]
    wanted = tmp_path / "wanted.csv"
    wanted.write_text(f"subject,times,treatment\n{one},2,\n{one},2,b\n{other},2,C\n")
    arguments = ["generate", "--config", str(config), "--out", str(tmp_path / "out")]
    for text, message in (
        ("treatment=C", "error: generate.given: treatment: 'C' is none of the levels A, B"),
        ("dose=2", "error: generate.given: dose is no planned covariate of the model; those that can be given are tr"),
        ("A", "generate: given: 'A' is not a covariate's name=value, such as treatment=B"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--at", "2", "--with", text])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--file", str(wanted), "--with", "treatment=A"])
    assert ended.value.code == 3
    assert f"failed: {other}, request: line 4: treatment: 'C' is none of the levels A, B" in capsys.readouterr().err
    out = tmp_path / "out"
    assert list(cines(out, "requestTreatmentA")) == list(cines(out, "requestTreatmentB")) == [f"sub-{one}"]
    assert len(of_cavity(out / "differences.csv")) == 1
