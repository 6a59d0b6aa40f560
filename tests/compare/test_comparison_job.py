"""A whole comparison on a tiny phantom: trained, evaluated and written; and again, with a part missing."""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sadm_ray import steps
from sadm_ray.config.settings_file import with_values
from sadm_ray.data.shards.prepared_study import read_study
from sadm_ray.errors import DataError
from sadm_ray.steps.run_folder import shards_folder
from sadm_ray.tracking import step_history
from tests.tiny import settings_for

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> dict[str, Any]:
    base = settings_for(tmp_path_factory.mktemp("runs"), steps=6)
    chosen = {"compare.kinds": ["sadm", "regression", "gan"], "compare.seeds": 1, "compare.trials": 2}
    settings = with_values(base, chosen | {"train.validation.generate_every": 0})
    steps.prepare(settings)
    return {"settings": settings, "compared": steps.compare(settings)}


def test_every_kind_has_the_same_tasks_and_subjects(found: dict[str, Any]) -> None:
    statistics, study = found["compared"].statistics, read_study(shards_folder(found["settings"]))
    assert found["compared"].failures == ()
    assert list(statistics["task"].unique()) == ["single-image", "missing-data", "full-sequence"]
    for _, rows in statistics.groupby("task"):
        assert set(rows["subjects"]) == {len(study.subjects["test"])}
        assert {"copy-last", "mean change", "GAN", "without the diffusion", "SADM (ours), one sample"} <= set(
            rows["method"]
        )
    members = found["compared"].members.set_index("kind")
    assert members.loc["sadm", "parameters"] > members.loc["regression", "parameters"], "the denoiser's are missing"
    assert set(members["steps"]) == {6}


def test_the_written_files(found: dict[str, Any]) -> None:
    out = found["settings"].run_dir / "compare"
    for name in ("comparison", "ablation"):
        rows = pd.read_csv(out / f"{name}.csv")
        assert (out / f"{name}.md").read_text().count("\n| ") == len(rows) + 2
        assert "toprule" in (out / f"{name}.tex").read_text()
    page = (out / "report.html").read_text()
    assert "Training loss" in page
    assert "The paper's ablation" in page.replace("&#39;", "'")
    assert "without the diffusion" in page
    psnr = step_history(found["settings"], "compare", "single-image.GAN.psnr")
    statistics = found["compared"].statistics.set_index(["task", "method"])
    assert [value for _, value in psnr] == [pytest.approx(statistics.loc[("single-image", "GAN"), "psnr"])]


def test_repeated_it_trains_nothing_and_has_the_same_result(found: dict[str, Any]) -> None:
    out = found["settings"].run_dir / "compare"
    weights = {file: file.stat().st_mtime_ns for file in out.glob("*/model/model.safetensors")}
    volumes = {file: file.stat().st_mtime_ns for file in out.glob("*/generated/**/*.nii.gz")}
    assert len(weights) == 3
    assert volumes
    shutil.rmtree(out / "gan-0" / "evaluation")
    again = steps.compare(found["settings"])
    pd.testing.assert_frame_equal(again.statistics, found["compared"].statistics)
    assert {file: file.stat().st_mtime_ns for file in volumes} == volumes
    assert (out / "gan-0" / "evaluation" / "metrics.csv").exists()


def test_a_baseline_that_fails_is_listed_and_the_others_are_compared(found: dict[str, Any], tmp_path: Path) -> None:
    checkpoints = found["settings"].run_dir / "compare" / "gan-0" / "model.ray"
    shutil.move(checkpoints, tmp_path / "kept")
    checkpoints.mkdir()
    (checkpoints / "checkpoints").write_text("a file where a folder should be")
    try:
        without = steps.compare(found["settings"])
    finally:
        shutil.rmtree(checkpoints)
        shutil.move(tmp_path / "kept", checkpoints)
    assert len(without.failures) == 1
    assert without.failures[0].startswith("gan-0: ")
    before = found["compared"].statistics
    kept = before[before["method"] != "GAN"]
    assert list(without.statistics["method"]) == list(kept["method"])
    assert list(without.statistics["psnr"]) == list(kept["psnr"])


def test_without_ours_there_is_nothing_to_compare_with(found: dict[str, Any], tmp_path: Path) -> None:
    """Without our model the comparison fails, with the reason of the failure."""
    out = found["settings"].run_dir / "compare"
    weights = out / "sadm-0" / "model" / "model.safetensors"
    whole, checkpoints = weights.read_bytes(), out / "sadm-0" / "model.ray"
    shutil.move(checkpoints, tmp_path / "kept")
    checkpoints.mkdir()
    (checkpoints / "checkpoints").write_text("a file where a folder should be")
    try:
        with pytest.raises(DataError, match=r"ours has no results.*sadm-0"):
            steps.compare(found["settings"])
    finally:
        shutil.rmtree(checkpoints)
        shutil.move(tmp_path / "kept", checkpoints)
        weights.write_bytes(whole)
