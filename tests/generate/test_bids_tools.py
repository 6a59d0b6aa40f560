"""Our output and a study that we accept, as BIDS's own validator and pybids see them."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import bids_validator_deno
import nibabel as nib
import numpy as np
import pytest
import torch
from bids import BIDSLayout

from sadm_ray.config import DenoiserSettings, ModelSettings, NetworkSettings, SamplingSettings, Settings
from sadm_ray.data.find import find_subjects
from sadm_ray.data.find.label_files import find_labels
from sadm_ray.data.phantom import write_phantom
from sadm_ray.data.shards.prepared_study import Study, read_subject
from sadm_ray.data.shards.subject_row import prepare_subject
from sadm_ray.generate.actor_job import GenerationJob
from sadm_ray.generate.bids_dataset import describe, scans_folder
from sadm_ray.generate.bids_names import SubjectNames, is_file_of
from sadm_ray.generate.generation_actor import run_subject_jobs
from sadm_ray.generate.generation_plan import plan_subject_jobs
from sadm_ray.generate.generation_record import read_record
from sadm_ray.generate.moved_structures import MovedStructures, ObservedStructures
from sadm_ray.generate.volume_writer import SubjectWriter
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.model.pretrained import StoredModel
from sadm_ray.model.registry import build_model
from sadm_ray.storage import Storage
from tests.data.studies import write_study

SHAPE = (4, 8, 8)
TASKS = [
    {"name": "to-last", "observed": [0], "targets": [-1]},
    {"name": "rest", "observed": [0], "targets": [1, 2]},
]


def settings_of(kind: str, **wanted: Any) -> Settings:
    """Two phantoms, all of whose visits or frames are kept."""
    layout = {"heart": "acdc", "brain": "bids"}[kind]
    data = {"layout": layout, "suffix": "T1w", "shape": SHAPE, "frames": None}
    phantom = {"kind": kind, "subjects": 2, "shape": (6, 12, 10)}
    generate = {"split": "all", "samples": 2, "sequence": True, "tasks": TASKS, **wanted}
    return Settings.model_validate({"data": data, "phantom": phantom, "generate": generate})


def study_of(settings: Settings, folder: Path) -> Study:
    write_phantom(folder / "raw", settings.phantom, settings.seed)
    return prepared(settings, folder / "raw", folder)


def prepared(settings: Settings, raw: Path, folder: Path) -> Study:
    catalog = find_subjects(str(raw), settings.data)
    found = Storage(catalog.folder)
    rows = [prepare_subject(subject, found, settings.data).row for subject in catalog.subjects]
    whole = [row for row in rows if row is not None]
    assert len(whole) == 2
    study = write_study(folder / "shards", whole, {"test": [row["subject"] for row in whole]})
    facts = {**settings.data.model_dump(mode="json"), "root": str(raw)}
    return replace(study, settings=facts, time_unit=catalog.time_unit)


def generated(settings: Settings, study: Study, out: Path) -> Path:
    """What the job writes, by one actor and without Ray."""
    torch.manual_seed(0)
    small = NetworkSettings(widths=(16, 16), blocks=1)
    denoiser = DenoiserSettings(widths=(16, 16), blocks=1)
    config = ModelSettings(difference_scale=0.1, prior=small, denoiser=denoiser)
    folder = out.with_name(f"{out.name}-model")
    build_model(ModelConfig(shape=SHAPE, model=config)).eval().save_pretrained(folder)
    stored, wanted = StoredModel.read(folder), settings.generate
    sampling = SamplingSettings(num_steps=1, sampler="ancestral")
    plan = plan_subject_jobs(settings, study, [stored.digest], sampling, 1.0)
    job = GenerationJob(
        study, (stored,), (stored.digest,), str(out), sampling, wanted.estimates, wanted.sequence, True, 8, "cpu"
    )
    run_subject_jobs(plan.subject_jobs, job)
    for each in plan.subject_jobs:
        record = read_record(Storage(str(out)), each.subject)
        assert record is not None
        assert not record.failed, record.frames
    requests = [request for each in plan.subject_jobs for request in each.requests]
    describe(Storage(str(out)), scans_folder(settings, study), requests, wanted.estimates, wanted.sequence)
    return out


@pytest.fixture(scope="module")
def brains(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Study]:
    settings = settings_of("brain")
    return settings, study_of(settings, tmp_path_factory.mktemp("brains"))


@pytest.fixture(scope="module")
def of_tasks(brains: tuple[Settings, Study], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generated(*brains, tmp_path_factory.mktemp("tasks") / "out")


@pytest.fixture(scope="module")
def of_times(brains: tuple[Settings, Study], tmp_path_factory: pytest.TempPathFactory) -> Path:
    first = float(read_subject(brains[1], brains[1].subjects["test"][0])["times"][0])
    settings = settings_of("brain", at=[first + 0.25, first + 30.125])
    return generated(settings, brains[1], tmp_path_factory.mktemp("times") / "out")


def issues(folder: Path, *, ignoring: bool = True) -> list[tuple[str, str]]:
    """The errors that the validator finds: (code, file)."""
    kept = (folder / ".bidsignore").read_bytes() if (folder / ".bidsignore").exists() else None
    if not ignoring and kept is not None:
        (folder / ".bidsignore").unlink()
    code = "import sys; from bids_validator_deno import cli; sys.exit(cli())"
    assert bids_validator_deno.__file__
    try:
        command = [sys.executable, "-c", code, str(folder), "--json"]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        if not ignoring and kept is not None:
            (folder / ".bidsignore").write_bytes(kept)
    found = json.loads(told.stdout)["issues"]["issues"]
    return [(each["code"], each.get("location", "")) for each in found if each["severity"] == "error"]


def layout_of(folder: Path) -> list[Mapping[str, Any]]:
    """What pybids knows of each volume, apart from its path."""
    layout = BIDSLayout(folder, validate=True, is_derivative=True)
    return [file.get_entities() for file in layout.get(extension=".nii.gz")]


def test_a_study_that_we_accept_is_valid(brains: tuple[Settings, Study]) -> None:
    raw = Path(brains[1].settings["root"])
    assert issues(raw) == []
    layout = BIDSLayout(raw, validate=True)
    ours = {subject.name: len(subject.scans) for subject in find_subjects(str(raw), brains[0].data).subjects}
    assert {
        name: len(layout.get(subject=name, suffix="T1w", extension=".nii.gz")) for name in layout.get_subjects()
    } == ours


@pytest.mark.parametrize("which", ["of_tasks", "of_times"])
def test_generated_brains_are_valid_and_none_is_left_out(which: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(which)
    assert issues(folder) == []
    # Without .bidsignore only what is ours is wrong: no volume of a visit or a time.
    wrong = {file for _, file in issues(folder, ignoring=False) if file.startswith("/sub-")}
    volumes = {f"/{file.relative_to(folder)}" for file in folder.glob("sub-*/ses-*/anat/*")}
    assert len(volumes) > 8
    assert not wrong & volumes
    assert all("_synth." in file for file in wrong)


@pytest.mark.parametrize("which", ["of_tasks", "of_times"])
def test_pybids_tells_all_generated_brains_apart(
    which: str, request: pytest.FixtureRequest, brains: tuple[Settings, Study]
) -> None:
    folder: Path = request.getfixturevalue(which)
    found = [each for each in layout_of(folder) if each["suffix"] == "T1w"]
    assert len(found) == len(list(folder.glob("sub-*/ses-*/anat/*_T1w.nii.gz")))
    keys = [tuple(each[name] for name in ("subject", "session", "datatype", "desc", "suffix")) for each in found]
    assert len(set(keys)) == len(keys)
    described = {
        line.split("\t")[0].removeprefix("desc-") for line in (folder / "descriptions.tsv").read_text().splitlines()[1:]
    }
    assert {each["desc"] for each in found} < described
    visits = {ses.name for ses in Path(brains[1].settings["root"]).glob("sub-*/ses-*")}
    made = {f"ses-{each['session']}" for each in found}
    if which == "of_tasks":
        assert made <= visits
        assert {each["desc"] for each in found} == {
            f"{task}{estimate}" for task in ("toLast", "rest") for estimate in ("Estimate", "Sample1", "Sample2", "Std")
        }
    else:
        assert not made & visits
        assert all(name.startswith("ses-time") for name in made)


def test_the_sidecar_says_what_the_name_cannot(of_times: Path, brains: tuple[Settings, Study]) -> None:
    layout = BIDSLayout(of_times, validate=True, is_derivative=True)
    for file in layout.get(suffix="T1w", extension=".nii.gz"):
        facts = file.get_metadata()
        assert file.get_entities()["session"] == "time" + f"{facts['Time']:.12g}".replace(".", "p")
        assert facts["TimeUnit"] == "years"
        assert facts["Description"]
        for source in facts["Sources"]:
            dataset, _, path = source.removeprefix("bids:").partition(":")
            assert dataset == "raw"
            assert (Path(brains[1].settings["root"]) / path).is_file()
    links = json.loads((of_times / "dataset_description.json").read_text())["DatasetLinks"]
    assert links == {"raw": Path(brains[1].settings["root"]).as_uri()}


def test_names_that_are_no_labels_of_bids(brains: tuple[Settings, Study], tmp_path: Path) -> None:
    raw = Path(brains[1].settings["root"])
    names = {"sub-001": "OAS2_0001", "sub-002": "OAS2-0001"}  # one label in letters and digits
    lines = ["subject,path,session,time"]
    for subject, name in names.items():
        for visit in (1, 2, 3):
            path = f"{subject}/ses-0{visit}/anat/{subject}_ses-0{visit}_T1w.nii.gz"
            lines.append(f"{name},{path},v-{visit}.0,{visit}")
    (raw / "manifest.csv").write_text("\n".join(lines) + "\n")
    tree = settings_of("brain").model_dump()
    tree["data"]["layout"] = "manifest"
    tree["generate"]["tasks"] = [{"name": name, "observed": [0], "targets": [2]} for name in ("a-1.5", "a_15", "A15")]
    settings = Settings.model_validate(tree)
    study = prepared(settings, raw / "manifest.csv", tmp_path)
    (raw / "manifest.csv").unlink()
    folder = generated(settings, study, raw / "derivatives" / "ours")
    try:
        assert issues(folder) == []
        found = [each for each in layout_of(folder) if each["suffix"] == "T1w"]
        keys = {(each["subject"].lower(), each["session"], each["desc"].lower()) for each in found}
        assert len(keys) == len(found) == 2 * 3 * 4
        assert {each["session"] for each in found} == {"v30"}
        assert all(each["subject"].startswith("OAS20001x") for each in found)
        description = json.loads((folder / "dataset_description.json").read_text())
        assert description["DatasetLinks"] == {"raw": "../.."}, "which may move together"
    finally:
        shutil.rmtree(raw / "derivatives")


def test_a_cine_is_one_file_with_the_step_of_its_frames(tmp_path: Path) -> None:
    settings = settings_of("heart")
    folder = generated(settings, study_of(settings, tmp_path), tmp_path / "out")
    assert issues(folder) == []
    layout = BIDSLayout(folder, validate=False, is_derivative=True)
    found = [file.get_entities() for file in layout.get(extension=".nii.gz")]
    keys = [tuple(each.get(name) for name in ("subject", "datatype", "desc", "suffix")) for each in found]
    assert len(set(keys)) == len(keys) == 2 * 2 * (4 + 1)
    assert {key[-1] for key in keys} == {"cine"}
    for file in folder.glob("sub-*/anat/*_desc-rest*_cine.nii.gz"):
        image = nib.load(file)
        sidecar = json.loads(file.with_name(file.name.replace(".nii.gz", ".json")).read_text())
        assert image.shape[3] == len(sidecar["Times"]) == 3
        assert sidecar["Generated"] == [False, True, True]
        steps = np.diff(sidecar["Times"])
        assert image.header.get_zooms()[3] == pytest.approx(steps.mean(), rel=1e-5)
        assert sidecar["TimeStep"] == pytest.approx(steps.mean())


def test_label_maps_of_generated_brains_are_valid(
    brains: tuple[Settings, Study], of_tasks: Path, tmp_path: Path
) -> None:
    """And they are found again, with their names, as label maps of a study are."""
    out = tmp_path / "generated"
    shutil.copytree(of_tasks, out)
    study = brains[1]
    row = read_subject(study, "001")
    ones = np.ones((2, 1, *SHAPE), np.float32)
    moved = MovedStructures(ObservedStructures({"head": 4}, {0: ones[0]}, 1.0, None), ones[0], ones)
    writer = SubjectWriter(Storage(str(out)), SubjectNames(row, "001", "toLast"), row)
    writer.write_labels(1, float(row["times"][1]), moved, ("samples", "estimate"), {"Task": "to-last"})
    assert issues(out) == []
    written = [file["path"] for file in writer.written if file["path"].endswith(".nii.gz")]
    assert written[0] == "sub-001/ses-02/anat/sub-001_ses-02_desc-toLastEstimate_dseg.nii.gz"
    assert all(is_file_of("001", file["path"]) for file in writer.written)
    raw = study.settings["root"]
    found = find_labels(raw, "bids", f"{out}/*_desc-toLastEstimate_dseg.nii.gz", ("T1w",))
    label = found.of(json.loads(row["sources"])[1]["file"], None)
    assert label is not None
    assert label.names == {4: "head"}
