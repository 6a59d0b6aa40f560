"""The generation job on Ray: all kinds of requests, resumed runs, raw scans."""

import csv
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from sadm_ray import steps
from sadm_ray.cli import main
from sadm_ray.config import Settings
from sadm_ray.config.settings_file import dump_settings
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.errors import ConfigError, DataError
from sadm_ray.generate.answer_writer import _record_row
from sadm_ray.generate.generation_job import Generation
from sadm_ray.generate.generation_record import FILE_NAMES, write_record
from sadm_ray.model.registry import build_model
from sadm_ray.storage import Storage
from sadm_ray.train.trainer import model_config
from tests.tiny import settings_for

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> tuple[Settings, Study]:
    """A prepared study and an untrained model: the job does the same with any model."""
    settings = settings_for(tmp_path_factory.mktemp("runs"))
    study = steps.prepare(settings)
    torch.manual_seed(0)
    model = build_model(model_config(settings, study))
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(settings.run_dir / "model")
    return settings, study


def settings_with(base: tuple[Settings, Study], out: Path, **wanted: Any) -> Settings:
    tree = base[0].model_dump()
    tree["generate"] |= {"out": str(out), "samples": 1, **wanted}
    return Settings.model_validate(tree)


@pytest.fixture(scope="module")
def made(base: tuple[Settings, Study], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is generated of the test subjects; read it, do not change it."""
    folder = tmp_path_factory.mktemp("made")
    steps.generate(settings_with(base, folder))
    return folder


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(made, tmp_path / "out")


def generated(out: Path) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.glob("sub-*/**/*.*"))}


def written(out: Path) -> dict[str, int]:
    return {str(file.relative_to(out)): file.stat().st_mtime_ns for file in sorted(out.glob("sub-*/**/*.*"))}


def manifest(out: Path) -> list[dict[str, Any]]:
    return pq.read_table(out / "manifest.parquet").to_pylist()


def test_the_manifest_lists_every_file_with_its_checksum(base: tuple[Settings, Study], tmp_path: Path) -> None:
    result = steps.generate(settings_with(base, tmp_path, sequence=True))
    rows = manifest(tmp_path)
    assert {row["path"]: row["sha256"] for row in rows} == {
        path: hashlib.sha256(content).hexdigest() for path, content in generated(tmp_path).items()
    }
    assert result.volumes == sum(row["path"].endswith(".nii.gz") for row in rows)
    assert result.failures == {}
    assert not (tmp_path / "failures.csv").exists()


def test_the_same_voxels_whatever_the_actors_and_batches(base: tuple[Settings, Study], tmp_path: Path) -> None:
    steps.generate(settings_with(base, tmp_path / "one", actors=1, batch_size=1, samples=2))
    steps.generate(settings_with(base, tmp_path / "two", actors=2, batch_size=3, samples=2))
    assert generated(tmp_path / "one") == generated(tmp_path / "two")
    assert manifest(tmp_path / "one") == manifest(tmp_path / "two")


def test_what_is_done_is_not_done_again_and_what_is_gone_is(base: tuple[Settings, Study], out: Path) -> None:
    settings = settings_with(base, out)
    before, content = written(out), generated(out)
    again = steps.generate(settings)
    assert written(out) == before
    assert again.done_before == again.subjects == len(base[1].subjects["test"])
    lost = next(file for file in out.glob("sub-*/anat/*.nii.gz"))
    subject = lost.parent.parent.name
    lost.unlink()
    (lost.parent / f".{lost.name}.0123abcd").write_bytes(b"half")
    assert steps.generate(settings).done_before == again.subjects - 1
    assert generated(out) == content, "and nothing half-written is left"
    redone = {path for path, modified in written(out).items() if before[path] != modified}
    assert {Path(path).parts[0] for path in redone} == {subject}


def test_another_request_in_the_same_folder_is_refused_or_replaces(base: tuple[Settings, Study], out: Path) -> None:
    kept = out / "notes.txt"
    kept.write_text("mine")
    with pytest.raises(ConfigError, match=r"another request \(wanted changed\); take another generate.out"):
        steps.generate(settings_with(base, out, at=[2.0]))
    steps.generate(settings_with(base, out, at=[2.0], replace=True))
    assert all("_desc-visitsEstimate_" in path for path in generated(out))
    assert kept.read_text() == "mine"


def test_times_after_the_last_scan(base: tuple[Settings, Study], tmp_path: Path) -> None:
    result = steps.generate(settings_with(base, tmp_path, at=[1.0, 1.25], split="all"))
    all_names = {name for names in base[1].subjects.values() for name in names}
    assert result.subjects == len(all_names)
    assert {row["subject"] for row in manifest(tmp_path)} == all_names
    # At 1.0, the last scan, there is nothing to do.
    assert {row["time"] for row in manifest(tmp_path)} == {1.25}
    assert all("_desc-visitsEstimate_" in row["path"] for row in manifest(tmp_path))


def test_a_file_of_requests(base: tuple[Settings, Study], tmp_path: Path) -> None:
    first, second = sorted(base[1].subjects["train"])[:2]
    file, out = tmp_path / "wanted.csv", tmp_path / "out"
    file.write_text(f"subject,times,samples\n{first},1.5;2,3\nnobody,1,1\n{second},1.5,1\n")
    settings = settings_with(base, out, file=str(file))
    result = steps.generate(settings)
    assert result.failures == {("nobody", "request"): "line 3: no such subject in the study"}
    with (out / "failures.csv").open() as lines:
        assert list(csv.reader(lines))[1:] == [["nobody", "request", "line 3: no such subject in the study"]]
    estimates = {
        name: sorted({row["estimate"] for row in manifest(out) if row["subject"] == name}) for name in (first, second)
    }
    assert estimates == {
        first: ["estimate", "sample1", "sample2", "sample3", "std"],
        second: ["estimate"],
    }
    # Another line is added, one is corrected, one is dropped: only what changed is done.
    before = written(out)
    file.write_text(f"subject,times,samples\n{first},1.5;2,3\n")
    assert steps.generate(settings).failures == {}
    assert {path: time for path, time in before.items() if first in path} == written(out)
    assert not (out / "failures.csv").exists()


def test_the_command_takes_options_and_its_exit_code_shows_failures(
    base: tuple[Settings, Study], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = base[1].subjects["test"][0]
    settings, lines = tmp_path / "settings.yaml", tmp_path / "wanted.csv"
    settings.write_text(dump_settings(base[0]))
    lines.write_text(f"subject,times\n{name},1.5\nnobody,1.5\n")
    common = ["generate", "--config", str(settings), "generate.samples=1", "--out"]
    with pytest.raises(SystemExit) as stopped:
        main([*common, str(tmp_path / "file"), "--file", str(lines)])
    assert stopped.value.code == 3
    assert "failed: nobody, request: line 3: no such subject" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main([*common, str(tmp_path / "at"), "--at", "1.5,2"])
    assert stopped.value.code == 0
    for file in (tmp_path / "at").glob("sub-*/anat/*.json"):
        sidecar = json.loads(file.read_text())
        made = [time for time, generated in zip(sidecar["Times"], sidecar["Generated"], strict=True) if generated]
        assert made == [1.5, 2.0]
    with pytest.raises(SystemExit) as stopped:
        main([*common, str(tmp_path / "both"), "--missing", "--file", str(lines)])
    assert stopped.value.code == 2


def test_raw_scans_are_prepared_as_the_models_were(base: tuple[Settings, Study], tmp_path: Path) -> None:
    raw = base[0].run_dir / "study"
    by_shards = settings_with(base, tmp_path / "shards", split="all")
    by_raw = settings_with(base, tmp_path / "raw", study=str(raw))
    steps.generate(by_shards)
    tree = by_raw.model_dump()
    tree["data"] |= {"intensity": {"method": "zscore", "over": "all"}}  # the model's own are used all the same
    steps.generate(Settings.model_validate(tree))
    assert generated(tmp_path / "raw") == generated(tmp_path / "shards")


def test_a_subject_that_was_scanned_once(base: tuple[Settings, Study], tmp_path: Path) -> None:
    settings, _ = base
    source = next((settings.run_dir / "study").glob("patient*/*_4d.nii.gz"))
    image = nib.load(source)
    folder = tmp_path / "scans"
    folder.mkdir()
    nib.save(image.slicer[..., 0], folder / "once.nii.gz")
    (folder / "broken.nii.gz").write_bytes((folder / "once.nii.gz").read_bytes()[:999])
    lines = ["subject,path,session,time", "once,once.nii.gz,first,0", "broken,broken.nii.gz,first,0"]
    (folder / "study.csv").write_text("\n".join(lines) + "\n")
    wanted = settings_with(
        base, tmp_path / "out", study=str(folder / "study.csv"), at=[0.5, 1.0], model=str(settings.run_dir / "model")
    )
    tree = wanted.model_dump()
    tree["data"] |= {"layout": "manifest", "time_unit": base[1].time_unit}
    result = steps.generate(Settings.model_validate(tree))
    assert (result.subjects, result.volumes) == (1, 2)
    ((left_out, reason),) = result.failures.items()
    assert left_out == ("broken", "preparation")
    assert "broken.nii.gz" in reason
    for file in (tmp_path / "out").glob("sub-once/ses-time*/anat/*_desc-visitsEstimate_synth.nii.gz"):
        made = nib.load(file)
        np.testing.assert_array_equal(made.affine, image.affine)
        assert made.shape == image.shape[:3]


def test_the_sweep_on_the_model_says_how_it_is_sampled(base: tuple[Settings, Study], tmp_path: Path) -> None:
    shutil.copytree(base[0].run_dir / "model", tmp_path / "other" / "model")
    (tmp_path / "other" / "tuned.yaml").write_text("sampling: {sampler: dpm++, num_steps: 3}\n")
    for tuned, steps_taken in ((True, 3), (False, base[0].sampling.num_steps)):
        out = tmp_path / str(tuned)
        steps.generate(settings_with(base, out, model=str(tmp_path / "other" / "model"), tuned=tuned))
        sidecar = json.loads(next(out.glob("sub-*/anat/*.json")).read_text())
        assert sidecar["Sampling"]["num_steps"] == steps_taken


def test_mistakes_are_reported_before_anything_is_done(base: tuple[Settings, Study], tmp_path: Path) -> None:
    out = tmp_path / "out"
    averaged = settings_with(base, out, tuned=False).model_dump()
    averaged["sampling"]["ema"] = 0.5
    with pytest.raises(ConfigError, match=r"generate.gpus_per_actor: an actor wants 1 GPU, the cluster has 0"):
        steps.generate(settings_with(base, out, gpus_per_actor=1))
    with pytest.raises(DataError, match=r"no average ema-0\.5 here, but none by name; see train\.ema_decays"):
        steps.generate(Settings.model_validate(averaged))
    with pytest.raises(DataError, match="train one first"):
        steps.generate(settings_with(base, out, model=str(tmp_path)))
    assert not out.exists()


def failures_of(result: Generation) -> set[str]:
    return {subject for subject, _ in result.failures}


def test_a_damaged_shard_costs_its_subjects_and_is_tried_again(base: tuple[Settings, Study], tmp_path: Path) -> None:
    settings = settings_with(base, tmp_path / "out", split="all")
    whole = {part: part.read_bytes() for part in (settings.run_dir / "shards" / "parts").glob("*.parquet")}
    victim, content = max(whole.items(), key=lambda item: len(item[1]))
    try:
        victim.write_bytes(content[: len(content) // 2])
        result = steps.generate(settings)
        assert result.failures
        assert all("missing or damaged" in reason for reason in result.failures.values())
    finally:
        victim.write_bytes(content)
    again = steps.generate(settings)
    assert again.failures == {}
    assert again.done_before == result.subjects - len(failures_of(result))


def another_study(source: Path, folder: Path) -> Path:
    """The first subject of a study as a study of its own, in the same layout."""
    subject = sorted(source.glob("patient*"))[0]
    shutil.copytree(subject, folder / "patient900")
    for file in (folder / "patient900").iterdir():
        file.rename(file.with_name(file.name.replace(subject.name, "patient900")))
    return folder


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {str(file.relative_to(folder)): (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def test_an_output_folder_belongs_to_one_study(base: tuple[Settings, Study], tmp_path: Path) -> None:
    first, out = tmp_path / "first", tmp_path / "out"
    shutil.copytree(base[0].run_dir / "study", first)  # with the times at which files were modified
    second = another_study(first, tmp_path / "second")
    for surplus in sorted(first.glob("patient*"))[2:]:
        shutil.rmtree(surplus)
    wanted = {"at": [1.5], "model": str(base[0].run_dir / "model")}
    steps.generate(settings_with(base, out, study=str(first), **wanted))
    before = snapshot(out)
    refused = rf"{out} holds the answers to another request \(study {first} before, {second} now\)"
    with pytest.raises(ConfigError, match=refused):
        steps.generate(settings_with(base, out, study=str(second), **wanted))
    with pytest.raises(ConfigError, match=rf"study {first} before"):
        steps.generate(settings_with(base, out, split="all", **wanted))
    # An earlier version did not write the study down; the shards say which it is.
    facts = json.loads((out / "request.json").read_text())
    assert facts.pop("study") == str(first)
    (out / "request.json").write_text(json.dumps(facts))
    with pytest.raises(ConfigError, match=refused):
        steps.generate(settings_with(base, out, study=str(second), **wanted))
    assert steps.generate(settings_with(base, out, study=str(first), **wanted)).done_before == 2
    assert json.loads((out / "request.json").read_text())["study"] == str(first)
    made = {path: file for path, file in before.items() if path.startswith("sub-")}
    assert made.items() <= snapshot(out).items()
    # The same study with another subject, and then in another folder, goes on.
    shutil.copytree(second / "patient900", first / "patient900")
    assert steps.generate(settings_with(base, out, study=str(first), **wanted)).done_before == 2
    moved = first.rename(tmp_path / "moved")
    assert steps.generate(settings_with(base, out, study=str(moved), **wanted)).done_before == 3
    assert made.items() <= snapshot(out).items()
    result = steps.generate(settings_with(base, out, study=str(second), replace=True, **wanted))
    assert result.subjects == 1
    assert {path.split("/")[0] for path in generated(out)} == {"sub-patient900"}


def test_two_request_files_of_one_name(
    base: tuple[Settings, Study], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, *_ = sorted(base[1].subjects["train"])
    out = tmp_path / "out"
    for folder, subject in (("a", first), ("b", second)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "wanted.csv").write_text(f"subject,times\n{subject},1.5\n")
    one, other = (settings_with(base, out, file=str(tmp_path / each / "wanted.csv")) for each in "ab")
    steps.generate(one)
    before = written(out)
    with pytest.raises(ConfigError, match=rf"file {tmp_path}/a/wanted\.csv before, {tmp_path}/b/wanted\.csv now"):
        steps.generate(other)
    assert written(out) == before
    # All that the folder holds is still wanted: the same file, moved, with a line more.
    (tmp_path / "b" / "wanted.csv").write_text(f"subject,times\n{first},1.5\n{second},1.5\n")
    assert steps.generate(other).done_before == 1
    assert before.items() <= written(out).items()
    assert "no longer requested" not in caplog.text
    # What a line was the reason for goes with it, and that is told.
    (tmp_path / "b" / "wanted.csv").write_text(f"subject,times\n{first},1.5\n")
    steps.generate(other)
    assert written(out) == before
    assert f"{out}: removed 1 results that are no longer requested ({second}, request)" in caplog.text


def test_a_folder_with_names_of_an_earlier_version_is_refused_or_replaced(
    base: tuple[Settings, Study], out: Path
) -> None:
    settings = settings_with(base, out)
    facts = json.loads((out / "request.json").read_text())
    del facts[FILE_NAMES]
    (out / "request.json").write_text(json.dumps(facts))
    name = base[1].subjects["test"][0]
    old = out / "future" / f"sub-{name}" / f"sub-{name}_frame-03_desc-sample_synth.json"
    old.parent.mkdir(parents=True)
    old.write_text("{}")
    row = _record_row(name, "future", 3, 0.5, (), None)
    row["files"] = [{"path": str(old.relative_to(out)), "estimate": "sample", "bytes": 2, "sha256": ""}]
    write_record(Storage(str(out)), name, "an earlier key", [row])
    before = snapshot(out)
    with pytest.raises(
        ConfigError, match=r"\(its files are named as in an earlier version\); take another generate\.out"
    ):
        steps.generate(settings)
    assert snapshot(out) == before
    steps.generate(settings_with(base, out, replace=True))
    assert not old.exists()
    assert {row["path"] for row in manifest(out)} == set(generated(out))


def test_a_folder_of_an_earlier_version_goes_on(base: tuple[Settings, Study], out: Path) -> None:
    settings = settings_with(base, out)
    before = written(out)
    facts = json.loads((out / "request.json").read_text())
    assert facts.pop("study") == str(base[0].run_dir / "shards")
    (out / "request.json").write_text(json.dumps(facts))
    assert steps.generate(settings).done_before == len(base[1].subjects["test"])
    (out / "request.json").unlink()  # nothing says what it belongs to, but all in it is wanted
    with pytest.raises(ConfigError, match="another request"):
        steps.generate(settings_with(base, out, at=[1.5]))
    assert written(out) == before


@pytest.mark.parametrize("named", ["../kept/file", "{}/kept/file", "notes.txt", "future/sub-other/x.json", "shards/x"])
def test_a_record_made_elsewhere_removes_nothing(base: tuple[Settings, Study], tmp_path: Path, named: str) -> None:
    out, kept = tmp_path / "out", tmp_path / "kept"
    kept.mkdir()
    for file in (kept / "file", out / "notes.txt", out / "future" / "sub-other" / "x.json"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine")
    name = base[1].subjects["test"][0]
    row = _record_row(name, "future", 0, 0.0, (), None)
    row["files"] = [{"path": named.format(tmp_path), "estimate": "sample", "bytes": 4, "sha256": ""}]
    write_record(Storage(str(out)), name, "another key", [row])
    before = snapshot(tmp_path)
    for replace in (False, True):
        with pytest.raises(DataError, match=rf"predictions/{name}\.parquet: names '.*', which is no file of this"):
            steps.generate(settings_with(base, out, replace=replace))
    assert snapshot(tmp_path) == before


def test_where_the_output_would_mix_with_other_files(base: tuple[Settings, Study], tmp_path: Path) -> None:
    run = base[0].run_dir
    (tmp_path / "file").touch()
    before = snapshot(run)
    for out, reason in (
        (run, "is the run's folder"),
        (run.parent, "holds the run's folder"),
        (Path("/"), "holds the run's folder"),
        (run / "shards", "is the run's shards"),
        (run / "model", "is the run's model"),
        (run / "model" / "new", "lies in the run's model"),
        (run / "study", "is the run's study"),
        (run / "study" / "patient001", "lies in the run's study"),
        (run / "model" / ".." / "shards" / "x", "lies in the run's shards"),
        (tmp_path / "file", "is a file"),
    ):
        with pytest.raises(ConfigError, match=rf"generate\.out: {out} {reason}; take a folder of its own"):
            steps.generate(settings_with(base, out))
    raw = tmp_path / "raw"
    shutil.copytree(run / "study", raw)
    with pytest.raises(ConfigError, match=f"lies in the study {raw}"):
        steps.generate(settings_with(base, raw / "out", study=str(raw), at=[1.5]))
    assert snapshot(run) == before
