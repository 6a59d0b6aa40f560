"""The viewer: its volumes keep their values, and its budget holds for every study."""

from __future__ import annotations

import gzip
import hashlib
import importlib.resources
import json
import re
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from sadm_ray.report.html_page import Report, write_report
from sadm_ray.report.representative_subjects import representatives
from sadm_ray.report.viewer import BUDGET, Viewer, build_viewer
from sadm_ray.report.viewer_volumes import TRUTH, encode, read_volumes
from tests.report.made import SAMPLES, SUBJECTS, TASKS, Made, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_run(tmp_path_factory.mktemp("run"))


def viewer_of(run: Made, budget: int = BUDGET) -> Viewer:
    viewer = build_viewer(run.study, run.predictions, run.evaluation.metrics, budget)
    assert viewer is not None
    return viewer


def test_best_median_and_worst_of_every_task_are_shown(run: Made) -> None:
    viewer = viewer_of(run)
    assert [view.representative.name for view in viewer.views] == [
        f"{task}.{place}" for task in TASKS for place in ("best", "median", "worst")
    ]
    assert viewer.views[0].representative.subject == SUBJECTS[0]
    assert viewer.views[2].representative.subject == SUBJECTS[-1]
    assert not viewer.left_out
    entry = json.loads(viewer.views_json)["views"][3]
    assert [frame["frame"] for frame in entry["frames"]] == [1, 2]
    assert set(entry["frames"][0]["psnr"]) == {"copy-last", "estimate", "sample", f"mean of {SAMPLES}"}
    assert entry["shown"] == ["estimate", "sample-1", "sample-2", "sample-3", "copy-last"]


def test_few_subjects_are_not_shown_twice(run: Made) -> None:
    metrics = run.evaluation.metrics
    for count, places in ((1, ["only"]), (2, ["best", "worst"]), (3, ["best", "median", "worst"])):
        some = metrics[metrics["subject"].isin(SUBJECTS[:count]) & (metrics["task"] == "future")]
        assert [representative.place for representative in representatives(some)] == places


def test_files_give_back_what_was_encoded(run: Made) -> None:
    volumes = read_volumes(run.study, run.predictions, "ben", "missing")
    encoded = encode(volumes)
    truth = volumes.quantities[TRUTH]
    wanted = {**volumes.quantities, "difference-sample-2": volumes.quantities["sample-2"] - truth}
    for name, volume in wanted.items():
        image = nib.Nifti1Image.from_bytes(gzip.decompress(encoded.files[name]))
        slope = image.dataobj.slope
        assert image.header.get_data_dtype() == np.uint8
        assert np.abs(image.get_fdata().T - volume).max() <= 0.51 * slope, name
        assert slope <= 1 / 127
        assert image.header.get_zooms()[:3] == pytest.approx((1.5, 1.5, 8.0))
    assert encoded.size == sum(4 * -(-len(content) // 3) for content in encoded.files.values())


def test_the_probability_of_a_change_is_the_part_of_the_samples_that_differ_from_the_last_scan(run: Made) -> None:
    found = read_volumes(run.study, run.predictions, "ben", "missing").quantities
    samples = np.stack([found[f"sample-{number}"] for number in range(1, SAMPLES + 1)])
    differ = np.abs(samples - found["copy-last"]) > 0.1
    np.testing.assert_allclose(found["probability"], differ.mean(axis=0))
    assert 0 < found["probability"].mean() < 1


def test_the_estimate_alone_has_no_spread(run: Made) -> None:
    volumes = read_volumes(run.study, run.predictions, "ben", "future")
    alone = {name: volumes.quantities[name] for name in ("truth", "estimate", "copy-last")}
    names = {"estimate", "copy-last", "difference-estimate", "difference-copy-last"}
    assert set(encode(replace(volumes, quantities=alone)).files) == {"truth", *names}


def test_subjects_without_room_are_left_out_and_listed(run: Made) -> None:
    whole = viewer_of(run)
    tight = viewer_of(run, budget=int(0.6 * whole.size))
    assert 0 < tight.size <= 0.6 * whole.size
    names = [view.representative.name for view in tight.views]
    assert {"future.median", "missing.median"} <= set(names)
    assert len(names) + len(tight.left_out) == 6
    assert all("no room" in line for line in tight.left_out)
    assert max(view.volumes.halvings for view in tight.views) == 0


def test_volumes_become_coarser_before_the_last_subject_goes(tmp_path: Path) -> None:
    run = make_run(tmp_path, shape=(18, 64, 64))
    budget = 600_000
    viewer = viewer_of(run, budget)
    assert viewer.size <= budget
    assert {"future.median", "missing.median"} <= {view.representative.name for view in viewer.views}
    view = viewer.views[0]
    assert view.volumes.halvings >= 1
    assert view.to_json()["shape"] == [64 >> view.volumes.halvings, 64 >> view.volumes.halvings, 9]
    assert view.volumes.spacing[2] == 16.0
    assert any("averaged to one" in note for note in viewer.notes)


def test_a_big_study_still_gives_a_small_page(tmp_path: Path) -> None:
    run = make_run(tmp_path, shape=(48, 128, 128))
    viewer = viewer_of(run)
    assert viewer.size <= BUDGET
    assert viewer.left_out or viewer.views[0].volumes.halvings
    page = tmp_path / "report.html"
    write_report(page, Report("big", "now", run.evaluation, viewer=viewer))
    assert page.stat().st_size < 30 * 2**20
    assert re.search("no room here|averaged to one", page.read_text(encoding="utf-8"))


def test_unreadable_predictions_are_listed(run: Made, tmp_path: Path) -> None:
    viewer = build_viewer(run.study, tmp_path, run.evaluation.metrics)
    assert viewer is not None
    assert not viewer.views
    assert all("cannot be shown" in line for line in viewer.left_out)
    page = tmp_path / "report.html"
    write_report(page, Report("empty", "now", run.evaluation, viewer=viewer))
    assert "<script" not in page.read_text(encoding="utf-8")


def test_scripts_can_stand_in_a_page_and_the_vendored_one_is_as_it_came() -> None:
    folder = importlib.resources.files("sadm_ray.report")
    vendored = folder.joinpath("vendor/niivue.umd.js").read_bytes()
    assert hashlib.sha256(vendored).hexdigest() in folder.joinpath("vendor/VERSION.txt").read_text()
    assert "BSD 2-Clause" in folder.joinpath("vendor/niivue.LICENSE.txt").read_text()
    for script in (vendored.decode(), folder.joinpath("viewer.js").read_text(encoding="utf-8")):
        assert not re.search(r"</script|<!--|\r", script)
