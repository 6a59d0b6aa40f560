"""What generated files are called."""

import json
from typing import Any

import pytest

from sadm_ray.generate.bids_names import SubjectNames, bids_labels, is_cine, is_file_of, suffix_of, time_label


def row(*scans: tuple[str, str] | None, frames: bool = False) -> dict[str, Any]:
    """A row of scans (session, file); None: an empty slot."""
    facts = [
        scan and {"session": scan[0], "file": scan[1], "frame": number if frames else None}
        for number, scan in enumerate(scans)
    ]
    return {"sources": json.dumps(facts)}


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["01", "patient001"], ["01", "patient001"]),
        (["OAS2_0001", "002_S_0295"], ["OAS20001", "002S0295"]),
        (["sub-01", "sub-a.b"], ["01", "aB"]),
        (["to-last", "from_two"], ["toLast", "fromTwo"]),
    ],
)
def test_labels_are_letters_and_digits_and_legible(names: list[str], labels: list[str]) -> None:
    assert list(bids_labels(names, "sub").values()) == labels


@pytest.mark.parametrize(
    "names",
    [
        ["a-b", "a_b", "aB", "ab"],
        ["1-12", "11-2", "112"],
        ["01", "sub-01"],
        ["x" * 60 + "1", "x" * 60 + "2"],
    ],
)
def test_labels_differ_where_names_do(names: list[str]) -> None:
    labels = bids_labels(names, "sub")
    assert len({label.lower() for label in labels.values() if label not in names}) + sum(
        labels[name] == name for name in names
    ) == len(names)
    assert all(label.isalnum() and label.isascii() and len(label) < 50 for label in labels.values())
    assert all(is_file_of(name, f"sub-{label}/anat/x.json") for name, label in labels.items())
    assert bids_labels(names[::-1], "sub") == labels, "whatever their order"


@pytest.mark.parametrize(
    ("time", "label"),
    [
        (12.0, "time12"),
        (12.5, "time12p5"),
        (-0.25, "timem0p25"),
        (20190131.0, "time20190131"),
        (20190132.0, "time20190132"),
        (365.0000116, "time365p0000116"),
        (1e-7, "time1em07"),
    ],
)
def test_a_time_is_legible_in_letters_and_digits(time: float, label: str) -> None:
    assert time_label(time) == label


def test_a_visit_keeps_its_label_and_a_time_has_its_own() -> None:
    scans = [("M00", "sub-1/ses-M00/anat/sub-1_ses-M00_T2w.nii.gz"), None, ("time3", "sub-1/ses-time3/anat/x_T2w.nii")]
    names = SubjectNames(row(*scans), "1", "toLast")
    assert names.frame(0, 0.0, "mean") == "sub-1/ses-M00/anat/sub-1_ses-M00_desc-toLastMean_T2w"
    assert names.frame(1, 1.5, "std") == "sub-1/ses-time1p5/anat/sub-1_ses-time1p5_desc-toLastStd_T2w"
    assert names.frame(None, 3.0, "sample").startswith("sub-1/ses-notime3/"), "which no visit is called"
    assert names.sequence("sequence", "synth") == "sub-1/anat/sub-1_desc-toLastSequence_synth"


@pytest.mark.parametrize(
    ("file", "suffix"),
    [
        ("sub-1/ses-1/anat/sub-1_ses-1_acq-x_T1w.nii.gz", "T1w"),
        ("/data/sub-1_FLAIR.nii", "FLAIR"),
        ("sub-1/anat/sub-1_inv-1_MP2RAGE.nii.gz", ""),
        ("patient001/patient001_4d.nii.gz", ""),
        ("scans/T1w.nii.gz", ""),
    ],
)
def test_the_suffix_is_that_of_the_scan_where_bids_knows_it(file: str, suffix: str) -> None:
    assert suffix_of(file) == suffix
    assert SubjectNames(row(("a", file)), "1", "t").frame(0, 0.0, "mean").endswith(f"desc-tMean_{suffix or 'synth'}")


def test_frames_of_one_file_are_a_cine() -> None:
    file = "x_4d.nii.gz"
    assert is_cine(row(("", file), ("", file), frames=True))
    assert is_cine(row(("ED", "x_frame01.nii.gz"), ("ES", "x_frame12.nii.gz")), "acdc")
    assert not is_cine(row(("1", "a.nii.gz"), None, ("2", "b.nii.gz")), "manifest")
    assert (
        SubjectNames(row(("", file), frames=True), "x", "t").sequence("mean", "cine")
        == "sub-x/anat/sub-x_desc-tMean_cine"
    )
    one = SubjectNames(row(("M0", file), frames=True), "x", "t")
    assert one.sequence("mean", "cine") == "sub-x/ses-M0/anat/sub-x_ses-M0_desc-tMean_cine"


def test_a_contrast_is_the_suffix_also_of_a_visit_that_lacks_it() -> None:
    """As `row_contrasts.of_contrast` gives the row: such a visit has a session and no file."""
    scans = row(("M00", "sub-1/ses-M00/anat/sub-1_ses-M00_FLAIR.nii.gz"), ("M12", ""))
    names = SubjectNames({**scans, "contrasts": ["FLAIR"]}, "1", "toLast")
    assert names.frame(1, 12.0, "mean") == "sub-1/ses-M12/anat/sub-1_ses-M12_desc-toLastMean_FLAIR"
    assert names.frame(None, 7.0, "mean") == "sub-1/ses-time7/anat/sub-1_ses-time7_desc-toLastMean_FLAIR"
    assert names.sequence("sequence", "synth") == "sub-1/anat/sub-1_mod-FLAIR_desc-toLastSequence_synth"
    unknown = SubjectNames({**scans, "contrasts": ["SWI_mag"]}, "1", "toLast")
    assert unknown.frame(1, 12.0, "mean") == "sub-1/ses-M12/anat/sub-1_ses-M12_mod-SWIMag_desc-toLastMean_synth"
