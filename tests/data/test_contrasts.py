"""Several contrasts as the channels of one frame: found, read, normalised and stored, also where a visit lacks one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydantic import ValidationError

from sadm_ray.config import DataSettings, PhantomSettings, Settings
from sadm_ray.data.find import find_subjects
from sadm_ray.data.inspect.inspection import Inspection, inspect_subject
from sadm_ray.data.inspect.inspection_table import render
from sadm_ray.data.load.collate import collate
from sadm_ray.data.normalise.intensity import normalise
from sadm_ray.data.phantom import write_phantom
from sadm_ray.data.shards.prepared_study import data_digest, preparation_digest
from sadm_ray.data.shards.row_contrasts import of_contrast
from sadm_ray.data.shards.shard_writer import to_parquet
from sadm_ray.data.shards.subject_row import parse_row, prepare_subject, row_checksum, row_key, scan_digests
from sadm_ray.errors import DataError
from sadm_ray.storage import Storage
from tests.data.patients import scan_of, write_bids

SHAPE = (8, 12, 12)
BRAINS = PhantomSettings(kind="brain", subjects=2, shape=SHAPE, lacking=0.5, misplacement=0)
BOTH = {
    "layout": "bids",
    "suffix": ["T1w", "FLAIR"],
    "frames": None,
    "shape": SHAPE,
    "intensity": {"method": "percentile", "over": "visit", "within": "foreground"},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("brains")
    write_phantom(folder, BRAINS, 3)
    return folder


def settings_of(**more: Any) -> DataSettings:
    return DataSettings.model_validate({**BOTH, **more})


def prepared(root: Path, name: str, settings: DataSettings) -> dict[str, Any]:
    (subject,) = [each for each in find_subjects(str(root), settings).subjects if each.name == name]
    result = prepare_subject(subject, Storage(str(root)), settings)
    assert result.row is not None
    return result.row


def there(root: Path, name: str, contrast: str) -> list[bool]:
    sessions = sorted((root / f"sub-{name}").glob("ses-*"))
    return [bool(list(session.glob(f"anat/*_{contrast}.nii.gz"))) for session in sessions]


def test_the_phantom_lacks_contrasts_but_never_all_and_its_others_stay(root: Path, tmp_path: Path) -> None:
    for name in ("001", "002"):
        t1w, flair = there(root, name, "T1w"), there(root, name, "FLAIR")
        assert all(one or other for one, other in zip(t1w, flair, strict=True))
    lacking = [not has for name in ("001", "002") for kind in ("T1w", "FLAIR") for has in there(root, name, kind)]
    assert 2 <= sum(lacking) < len(lacking) / 2
    write_phantom(tmp_path, BRAINS.model_copy(update={"lacking": 0.0}), 3)
    for file in root.rglob("*.nii.gz"):
        assert file.read_bytes() == (tmp_path / file.relative_to(root)).read_bytes()
    assert PhantomSettings(kind="brain").facts().keys() & {"contrasts", "lacking"} == set(), (
        "as earlier versions had it"
    )


def test_one_contrast_is_what_it_was_also_as_a_list(root: Path) -> None:
    alone, listed = settings_of(suffix="T1w"), settings_of(suffix=["T1w"])
    assert alone == listed
    assert alone.contrasts == ("",)
    assert data_digest(Settings(data=listed)) == data_digest(Settings(data=alone))
    assert preparation_digest(Settings(data=alone), "years") != preparation_digest(
        Settings(data=settings_of()), "years"
    )
    row = prepared(root, "002", settings_of(suffix=["T1w"], min_scans=1))
    assert "contrasts" not in row
    assert b"contrasts" not in to_parquet([row], {}).to_pybytes()
    assert all(isinstance(scan, dict) for scan in json.loads(row["sources"]))
    parsed = parse_row(row)
    assert parsed["frames"].shape[1] == 1
    assert collate([parsed]).has_channel is None
    assert of_contrast(parsed, 0) is parsed


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"suffix": []}, "empty list"),
        ({"suffix": ["T1w", "T1w"]}, "'T1w' stands there twice"),
        ({"suffix": ["T1w", "../x"]}, "'../x' is no contrast of BIDS"),
        ({"layout": "manifest"}, "several contrasts go with layout=bids only"),
        ({"layout": "acdc"}, "several contrasts go with layout=bids only"),
    ],
)
def test_what_cannot_be_is_refused(data: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        settings_of(**data)


@pytest.mark.parametrize("name", ["001", "002"])
def test_a_row_holds_each_contrast_as_if_it_were_alone(root: Path, name: str) -> None:
    row = prepared(root, name, settings_of())
    parsed = parse_row(row)
    assert parsed["contrasts"] == ("T1w", "FLAIR")
    assert parsed["present"].all()
    for channel, contrast in enumerate(("T1w", "FLAIR")):
        its = there(root, name, contrast)
        assert parsed["has_channel"][:, channel].tolist() == its
        assert not parsed["frames"][~np.array(its), channel].any()
        alone = parse_row(prepared(root, name, settings_of(suffix=contrast, min_scans=1)))
        view = of_contrast(parsed, channel)
        np.testing.assert_array_equal(view["frames"][view["present"]], alone["frames"])
        np.testing.assert_array_equal(view["times"][view["present"]], alone["times"])
        np.testing.assert_array_equal(view["intensity"], alone["intensity"])
        slots = json.loads(view["sources"])
        assert [slot for slot in slots if "file" in slot] == json.loads(alone["sources"])
        assert all(slot["session"] for slot in slots), "a visit that lacks the contrast keeps its session"
    assert len(scan_digests(row)) == 3 * parsed["has_channel"].sum(), "of each file, its voxels and what is stored"
    batch = collate([parsed, parse_row(prepared(root, "002", settings_of()))])
    assert batch.has_channel is not None
    np.testing.assert_array_equal(batch.has_channel[0, : batch.lengths[0]], parsed["has_channel"])
    assert not batch.has_channel[1, batch.lengths[1] :].any()


def test_the_key_and_the_checksum_know_the_contrasts(root: Path) -> None:
    row = prepared(root, "001", settings_of())
    other = json.loads(row["contrasts"])
    other["present"][0] = [not has for has in other["present"][0]]
    assert row_checksum({**row, "contrasts": json.dumps(other)}) != row["checksum"] == row_checksum(row)
    (subject, _) = find_subjects(str(root), settings_of()).subjects
    assert row_key(subject, settings_of()) != row_key(subject, settings_of(suffix=["FLAIR", "T1w"]))


def test_the_contrasts_of_a_visit_share_its_place_by_their_headers(tmp_path: Path) -> None:
    """FLAIR is stored on a grid of its own, twice as coarse, in the same space."""
    root = write_bids(tmp_path, {"01": {"1": 30, "2": 40}})
    rng = np.random.default_rng(0)
    fine = {session: rng.integers(100, 900, (16, 12, 8)).astype(np.int16) for session in "12"}
    coarse_affine = np.diag([2.0, 2.0, 2.0, 1.0])
    coarse_affine[:3, 3] = 0.5  # the middle of each block of eight
    for session, voxels in fine.items():
        nib.save(
            nib.Nifti1Image(voxels, np.eye(4)), root / f"sub-01/ses-{session}/anat/sub-01_ses-{session}_T1w.nii.gz"
        )
        blocks = voxels.reshape(8, 2, 6, 2, 4, 2).mean(axis=(1, 3, 5)).astype(np.float32)
        file = root / f"sub-01/ses-{session}/anat/sub-01_ses-{session}_FLAIR.nii.gz"
        nib.save(nib.Nifti1Image(blocks, coarse_affine), file)
    settings = settings_of(shape=(8, 12, 16), intensity={"method": "minmax", "over": "visit"})
    parsed = parse_row(prepared(root, "01", settings))
    assert parsed["has_channel"].all()
    np.testing.assert_array_equal(parsed["affine"], np.eye(4))
    blocks = fine["1"].reshape(8, 2, 6, 2, 4, 2).mean(axis=(1, 3, 5)).T.astype(np.float32)
    lo, hi = parsed["intensities"][1]
    inner = parsed["frames"][0, 1, 1:-1, 1:-1, 1:-1].reshape(3, 2, 5, 2, 7, 2)
    between = (blocks[:-1, :-1, :-1] + blocks[1:, 1:, 1:]) / 2  # far from exact: it lies between these, by and large
    assert np.corrcoef(inner.mean(axis=(1, 3, 5)).ravel(), normalise(between, (lo, hi)).ravel())[0, 1] > 0.3
    assert [scan["moved"] for scan in json.loads(of_contrast(parsed, 1)["sources"])] == [np.eye(4).ravel().tolist()] * 2


def test_a_bad_file_costs_its_contrast_and_not_the_visit(root: Path, tmp_path: Path) -> None:
    write_phantom(tmp_path, BRAINS.model_copy(update={"lacking": 0.0, "subjects": 1}), 3)
    broken = tmp_path / "sub-001/ses-02/anat/sub-001_ses-02_T1w.nii.gz"
    broken.write_bytes(broken.read_bytes()[:100])
    (subject,) = find_subjects(str(tmp_path), settings_of()).subjects
    result = prepare_subject(subject, Storage(str(tmp_path)), settings_of())
    assert result.row is not None
    has = parse_row(result.row)["has_channel"]
    assert has[1].tolist() == [False, True]
    assert has.sum() == has.size - 1
    (line,) = [str(problem) for problem in result.problems if problem.fatal]
    assert broken.name in line


def test_a_visit_with_two_files_of_a_contrast_keeps_the_other(tmp_path: Path) -> None:
    root = write_bids(tmp_path, {"01": {"1": 30, "2": 40}})
    for session in "12":
        scan_of(root, "01", session, "FLAIR")
    scan_of(root, "01", "2", "run-1_FLAIR")
    catalog = find_subjects(str(root), settings_of())
    (subject,) = catalog.subjects
    assert [(scan.session, scan.contrast) for scan in subject.scans] == [("1", "T1w"), ("1", "FLAIR"), ("2", "T1w")]
    (line,) = [str(problem) for problem in catalog.problems]
    assert "2 files for one visit" in line
    with pytest.raises(DataError, match=r"no scan _T2w\.nii\.gz in 1 folders"):
        find_subjects(str(root), settings_of(suffix=["T1w", "T2w"]))


def test_inspect_lists_the_contrasts_of_each_visit(root: Path) -> None:
    records = []
    for subject in find_subjects(str(root), settings_of()).subjects:
        record, problems = inspect_subject(subject, str(root), settings_of(), "years", None)
        assert not [problem for problem in problems if problem.fatal]
        t1w, flair = there(root, subject.name, "T1w"), there(root, subject.name, "FLAIR")
        assert list(record["contrasts"].values()) == [
            ["T1w"] * one + ["FLAIR"] * other for one, other in zip(t1w, flair, strict=True)
        ]
        records.append({**record, "split": None})
    inspection = Inspection(str(root), "years", tuple(records), ())
    assert inspection.counts["visits"] == sum(len(record["contrasts"]) for record in records)
    table = render(inspection).renderables[0]
    cells = list(table.columns[-1].cells)
    assert cells[0].plain.startswith(f"01 {'+'.join(records[0]['contrasts']['01'])}, 02 ")
