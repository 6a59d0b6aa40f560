"""Which label map belongs to which scan, in all layouts, and what its values are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sadm_ray.config import Settings
from sadm_ray.config.settings_file import load_settings
from sadm_ray.data.find import find_subjects
from sadm_ray.data.find.label_files import ACDC_NAMES, LabelFile, LabelFiles, find_labels
from sadm_ray.data.shards.prepared_study import data_digest, preparation_digest
from sadm_ray.data.shards.subject_row import row_key
from sadm_ray.errors import ConfigError, DataError
from tests.data.patients import scan_of, write_bids, write_scan, write_single_frames, write_table

VISITS = {"01": {"1": 60, "2": 62}, "02": {"1": 71, "2": 73}}
SCAN = "sub-{0}/ses-{1}/anat/sub-{0}_ses-{1}_{2}T1w.nii.gz"
LUT = "index name\n0 background\n4 ventricle\n43 ventricle\n17 hippocampus"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two subjects, of whom one has a label map at each visit, the other at the second."""
    write_bids(tmp_path, VISITS, column="age")
    for subject, session in (("01", "1"), ("01", "2"), ("02", "2")):
        scan_of(tmp_path / "derivatives" / "seg", subject, session, "dseg")
    write_table(tmp_path / "derivatives" / "seg" / "dseg.tsv", LUT)
    return tmp_path


def find(root: Path, labels: str | None = "derivatives/seg", contrasts: tuple[str, ...] = ("T1w",)) -> LabelFiles:
    return find_labels(str(root), "bids", labels, contrasts)


def label_of(found: LabelFiles, subject: str, session: str, entities: str = "") -> LabelFile | None:
    return found.of(SCAN.format(subject, session, entities), None)


def name_of(found: LabelFiles, subject: str, session: str, entities: str = "") -> str | None:
    label = label_of(found, subject, session, entities)
    return None if label is None else label.file.rpartition("/")[2]


def told(found: LabelFiles, *, fatal: bool = True) -> list[str]:
    return [str(problem) for problem in found.problems if problem.fatal is fatal]


@pytest.mark.parametrize("place", ["derivatives/seg", "derivatives/seg/", "{root}/derivatives/seg", "derivatives"])
def test_a_label_map_of_a_visit(root: Path, place: str) -> None:
    found = find(root, place.format(root=root))
    label = label_of(found, "01", "1")
    assert label is not None
    assert found.storage.where(label.file) == str(root / "derivatives/seg" / SCAN.format("01", "1", "")).replace(
        "T1w", "dseg"
    )
    assert label.size == Path(label.file).stat().st_size
    assert label.names == {4: "ventricle", 43: "ventricle", 17: "hippocampus"}
    assert label_of(found, "02", "1") is None
    assert name_of(found, "02", "2") == "sub-02_ses-2_dseg.nii.gz"
    assert found.problems == ()
    assert found.only([(SCAN.format("02", "2", ""), None)]).found.keys() == {"sub-02_ses-2"}


def test_without_the_setting_there_are_none(root: Path) -> None:
    assert (find(root, None).found, find(root, None).problems) == ({}, ())
    assert label_of(find(root, None), "01", "1") is None


def test_several_of_one_visit_are_told_apart_by_a_pattern(root: Path) -> None:
    for session in ("1", "2"):
        scan_of(root / "derivatives" / "seg", "01", session, "desc-aseg_dseg")
        scan_of(root / "derivatives" / "seg", "01", session, "label-GM_probseg")
    with pytest.raises(DataError, match=r"2 label maps fit it \(.*desc-aseg_dseg.*data.labels"):
        label_of(find(root), "01", "1")
    found = find(root, "derivatives/seg/*_desc-aseg_dseg.nii.gz")
    assert name_of(found, "01", "2") == "sub-01_ses-2_desc-aseg_dseg.nii.gz"
    assert label_of(found, "02", "2") is None
    assert name_of(find(root, "derivatives/seg/*_probseg*"), "01", "2") == "sub-01_ses-2_label-GM_probseg.nii.gz"


def test_a_run_is_not_given_the_label_map_of_another(root: Path) -> None:
    (root / "derivatives/seg" / SCAN.format("02", "2", "").replace("T1w", "dseg")).unlink()
    for run in ("1", "2"):
        scan_of(root / "derivatives" / "seg", "02", "2", f"run-{run}_desc-aseg_dseg")
    found = find(root)
    for run in ("1", "2"):
        assert name_of(found, "02", "2", f"run-{run}_") == f"sub-02_ses-2_run-{run}_desc-aseg_dseg.nii.gz"


def test_label_maps_of_a_template_are_left_out_and_told(root: Path) -> None:
    scan_of(root / "derivatives" / "seg", "01", "1", "space-MNI152NLin2009cAsym_dseg")
    scan_of(root / "derivatives" / "seg", "02", "1", "space-T1w_dseg")
    found = find(root)
    assert name_of(found, "01", "1") == "sub-01_ses-1_dseg.nii.gz"
    assert name_of(found, "02", "1") == "sub-02_ses-1_space-T1w_dseg.nii.gz"
    (line,) = told(found, fatal=False)
    assert "1 label maps lie in space-MNI152NLin2009cAsym" in line
    assert label_of(find(root, contrasts=("FLAIR",)), "02", "1") is None


def test_a_folder_that_is_not_there_is_a_problem(root: Path) -> None:
    (line,) = told(find(root, "derivatives/fsl"))
    assert str(root / "derivatives/fsl") in line
    assert "data.labels must be a folder below data.root" in line
    (line,) = told(find(root, "derivatives/seg/*_desc-no_dseg.nii.gz"))
    assert "holds no label map of a subject (sub-…) called *_desc-no_dseg.nii.gz" in line


def test_the_nearest_table_of_names_counts(root: Path) -> None:
    seg = root / "derivatives" / "seg"
    write_table(seg / "sub-01" / "sub-01_dseg.tsv", "index name\n1 cortex")
    write_table(seg / "sub-01/ses-2/anat/sub-01_ses-2_dseg.tsv", "index name\n2.0 stem")
    write_table(seg / "desc-aseg_dseg.tsv", "index name\n3 other")
    found = find(root)
    for subject, session, names in (("01", "1", {1: "cortex"}), ("01", "2", {2: "stem"})):
        label = label_of(found, subject, session)
        assert label is not None
        assert label.names == names
    label = label_of(found, "02", "2")
    assert label is not None
    assert 17 in label.names


def test_names_at_the_top_of_the_study(root: Path) -> None:
    (root / "derivatives/seg/dseg.tsv").rename(root / "dseg.tsv")
    label = label_of(find(root), "01", "1")
    assert label is not None
    assert label.names[17] == "hippocampus"


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("index label\n1 a", "needs the columns index and name (BIDS), it has index, label"),
        ("index name\n1 a\nx b", "row 3 has 'x' and 'b' where"),
        ("index name\n1 a\n2", "row 3 has 1 fields where the header has 2"),
        ("", "is empty"),
    ],
)
def test_a_damaged_table_of_names_is_told(root: Path, table: str, says: str) -> None:
    write_table(root / "derivatives/seg/dseg.tsv", table)
    found = find(root)
    (line,) = told(found)
    assert says in line
    assert "\n" not in line
    label = label_of(found, "01", "1")
    assert label is not None
    assert label.names == {}


def test_labels_of_a_manifest(tmp_path: Path) -> None:
    for name in ("a0", "a1", "a0_seg"):
        write_scan(tmp_path / "in" / f"{name}.nii.gz")
    rows = f"a,in/a0.nii.gz,0,in/a0_seg.nii.gz\na,{tmp_path}/in/a1.nii.gz,1,in/none.nii.gz\nb,in/b.nii.gz,0,thick"
    manifest = write_table(tmp_path / "study.csv", f"subject,path,time,labels\n{rows}")
    write_table(tmp_path / "dseg.tsv", LUT)
    found = find_labels(str(manifest), "manifest")
    label = found.of("in/a0.nii.gz", None)
    assert label is not None
    assert (label.file, label.names[17]) == ("in/a0_seg.nii.gz", "hippocampus")
    assert label == found.of(str(tmp_path / "in" / "a0.nii.gz"), None), "however the scan is written"
    assert found.of(str(tmp_path / "in" / "a1.nii.gz"), None) is None
    first, second = told(found)
    assert first.startswith(f"a: {tmp_path}/in/none.nii.gz: no such file; row 3 of the manifest")
    assert second.startswith(f"b: {tmp_path}/thick: no .nii or .nii.gz file; row 4")
    settings = load_settings(None, ["data.layout=manifest", f"data.root={manifest}"])
    scan = find_subjects(str(manifest), settings.data).subjects[0].scans[0]
    assert scan.covariates == {}, "no covariate"
    assert find_labels(str(tmp_path / "gone.csv"), "manifest").found == {}


def test_labels_of_acdc_lie_beside_the_scans(tmp_path: Path) -> None:
    write_single_frames(tmp_path, "patient001", {1: np.ones((4, 4, 3)), 7: np.ones((4, 4, 3))}, ed=1, es=7)
    found = find_labels(str(tmp_path), "acdc")
    label = found.of("patient001/patient001_frame07.nii.gz", None)
    assert label is not None
    assert (label.names, label.by_voxel) == (ACDC_NAMES, True)
    assert found.of("patient001/patient001_4d.nii.gz", 6) == label
    assert found.of("patient001/patient001_4d.nii.gz", 5) is None


def test_where_label_maps_are_changes_no_shard(root: Path) -> None:
    """Neither the digests by which shards and models are known again, nor the key of a row."""

    def settings(*overrides: str) -> Settings:
        return load_settings(None, [f"data.root={root}", "data.layout=bids", *overrides])

    without, given = settings(), settings("data.labels=derivatives/seg/*_dseg.nii.gz")
    assert given.data.labels == "derivatives/seg/*_dseg.nii.gz"
    assert data_digest(without) == data_digest(given)
    assert preparation_digest(without, "years") == preparation_digest(given, "years")
    subject = find_subjects(str(root), given.data).subjects[0]
    assert row_key(subject, without.data) == row_key(subject, given.data)
    with pytest.raises(ConfigError, match=r"data: labels goes with layout=bids only, not acdc; leave it out"):
        load_settings(None, [f"data.root={root}", "data.labels=x"])
