from __future__ import annotations

import json
from pathlib import Path

import pytest

from sadm_ray.config import DataSettings
from sadm_ray.data.find import Catalog, Subject, find_subjects
from sadm_ray.errors import DataError
from sadm_ray.storage import Storage
from tests.data.patients import scan_of, write_bids, write_scan, write_table


def find(root: Path | str, **settings: object) -> Catalog:
    return find_subjects(str(root), DataSettings.model_validate({"layout": "bids", **settings}))


def messages(catalog: Catalog, *, fatal: bool = True) -> list[str]:
    return [str(problem) for problem in catalog.problems if problem.fatal is fatal]


def visits(subject: Subject) -> list[tuple[str, float | None]]:
    return [(scan.session, scan.time) for scan in subject.scans]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two subjects, one with three visits."""
    return write_bids(tmp_path, {"01": {"1": 30, "2": 40.5, "10": 52}, "02": {"1": 31, "2": 39}})


def test_subjects_and_their_visits(root: Path) -> None:
    catalog = find(root)
    assert messages(catalog) == []
    assert [subject.name for subject in catalog.subjects] == ["01", "02"]
    assert visits(catalog.subjects[0]) == [("1", 30.0), ("2", 40.5), ("10", 52.0)]
    assert catalog.time_unit == "weeks"
    scan = catalog.subjects[0].scans[0]
    assert scan.file == "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz"
    assert scan.size == (root / scan.file).stat().st_size


def test_what_is_no_scan_of_the_study(root: Path) -> None:
    scan_of(root / "derivatives" / "fsl", "03", "1", "T1w")
    write_scan(root / "sourcedata" / "sub-04" / "anat" / "sub-04_T1w.nii.gz")
    scan_of(root, "01", "1", "desc-T1w_mask")
    scan_of(root, "01", "1", "space-T1w_T2w")
    catalog = find(root)
    assert len(catalog.subjects) == 2
    assert catalog.problems == ()


def test_two_files_in_one_visit(root: Path) -> None:
    first = scan_of(root, "01", "2", "run-1_T1w").rename(root / "sub-01/ses-2/anat/sub-01_ses-2_run-1_T1w.nii")
    catalog = find(root)
    assert visits(catalog.subjects[0]) == [("1", 30.0), ("10", 52.0)]
    (line,) = messages(catalog)
    assert all(part in line for part in (first.name, "sub-01_ses-2_T1w.nii.gz", "data.match"))
    with pytest.raises(DataError, match="no column"):  # no other scan has a run
        find(scan_of(root, "01", "1", "run-1_T1w").parents[3], match="*_run-1_*", time_column="never")
    both = find(root, match="*_run-1_*")
    assert visits(both.subjects[0]) == [("1", 30.0), ("2", 40.5)]
    assert ["02" in line and "has no scan _T1w" in line for line in messages(both)] == [True]


def test_subjects_with_too_few_scans(root: Path) -> None:
    scan_of(root, "03", "1", "T1w")
    scan_of(root, "04", "1", "FLAIR")
    write_table(root / "sub-05" / "sub-05_sessions.tsv", "session_id")
    write_scan(root / "sub-06" / "anat" / "sub-06_T1w.nii")
    catalog = find(root)
    assert len(catalog.subjects) == 2
    lines = messages(catalog)
    assert [line[:2] for line in lines] == ["03", "04", "05", "06"]
    assert "only one visit with a T1w is left" in lines[0]
    assert "at least two are needed" in lines[3]
    assert "has no scan _T1w.nii.gz, only FLAIR" in lines[1]
    assert "only no images in anat/" in lines[2]


def test_one_scan_is_enough_for_generation(tmp_path: Path) -> None:
    write_bids(tmp_path, {"01": {"1": 30, "2": 40.5}, "02": {"1": 55}})
    write_scan(tmp_path / "sub-03" / "anat" / "sub-03_T1w.nii.gz")
    catalog = find(tmp_path, frames=None, min_scans=1)
    assert {each.name: visits(each) for each in catalog.subjects} == {
        "01": [("1", 30.0), ("2", 40.5)],
        "02": [("1", 55.0)],
    }
    assert [line[:2] for line in messages(catalog)] == ["03"], "the subject without a time is reported"
    in_order = find(tmp_path, frames=None, min_scans=1, time_column="order")
    assert visits(in_order.subjects[2]) == [("1", 0.0)]


def test_labels_that_are_no_names(root: Path) -> None:
    scan_of(root, "x y", "1", "T1w")
    scan_of(root, "01", "a b", "T1w")
    scan_of(root, "01", "11", "T1w").rename(root / "sub-01/ses-11/anat/sub-02_ses-11_T1w.nii.gz")
    write_scan(root / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    catalog = find(root)
    assert visits(catalog.subjects[0]) == [("1", 30.0), ("2", 40.5), ("10", 52.0)]
    lines = messages(catalog)
    assert len(lines) == 4
    for part in ("called after another", "session 'a b' is not", "belongs to no session", "sub-x y: not a usable"):
        assert any(part in line for line in lines)


def test_sessions_without_folders_of_their_own(tmp_path: Path) -> None:
    for session in ("1", "2"):
        write_scan(tmp_path / "sub-01" / "anat" / f"sub-01_ses-{session}_T1w.nii.gz")
    assert visits(find(tmp_path, time_column="order").subjects[0]) == [("1", 0.0), ("2", 1.0)]


def test_times_that_cannot_be_used(tmp_path: Path) -> None:
    times = {"1": 30, "2": "n/a", "3": "soon", "4": 30, "5": "2024-03-31", "6": "inf", "7": 41}
    catalog = find(write_bids(tmp_path, {"01": times}))
    assert visits(catalog.subjects[0]) == [("1", 30.0), ("7", 41.0)]
    lines = messages(catalog)
    assert len(lines) == 5
    for part in ("no age_weeks", "'soon' where a number", "same age_weeks as", "'2024-03-31' where", "'inf'"):
        assert sum(part in line for line in lines) == 1
    (line,) = [line for line in lines if "same" in line]
    assert "ses-4_T1w.nii.gz: has" in line
    assert "ses-1_T1w.nii.gz" in line


def test_times_against_the_order_of_names(tmp_path: Path) -> None:
    catalog = find(write_bids(tmp_path, {"01": {"1": 40, "2": 30, "10": 50}}))
    assert visits(catalog.subjects[0]) == [("2", 30.0), ("1", 40.0), ("10", 50.0)]
    (line,) = messages(catalog, fatal=False)
    assert "in the order 2, 1, 10" in line


@pytest.mark.parametrize(
    ("column", "times", "expected", "unit"),
    [
        ("age", (61, 62.5), [61, 62.5], "years"),
        ("Age_Months", (7, 9), [7, 9], "months"),
        ("acq_time", ("2020-01-31T12:00:00", "2020-03-01"), [0, 29.5], "days"),
        ("scan_date", ("20200131", "20200301"), [0, 30], "days"),
        ("date", ("2020-01-31T23:00:00Z", "2020-02-01T02:00:00+02:00"), [0, 1 / 24], "days"),
        ("scan_age", (30, 31), [30, 31], "scan_age"),
    ],
)
def test_columns_and_units(
    tmp_path: Path, column: str, times: tuple[object, object], expected: list[float], unit: str
) -> None:
    catalog = find(write_bids(tmp_path, {"01": dict(zip("12", times, strict=True))}, column=column))
    assert [scan.time for scan in catalog.subjects[0].scans] == pytest.approx(expected)
    assert catalog.time_unit == unit
    assert find(tmp_path, time_unit="moons").time_unit == "moons"


@pytest.mark.parametrize(
    ("column", "times", "expected", "unit", "told"),
    [
        ("acq_time", ("20190131", "20190201", "20190303"), [0, 1, 31], "days", ""),
        ("time", ("20190131", "20190201", "20190303"), [0, 1, 31], "days", ""),
        ("acq_time", ("20190131101500.000000", "20190201101500.5", "20190303101500"), [0, 1, 31], "days", ""),
        ("acq_time", ("18901014T123300", "18901113T123300", "18910112T123300"), [0, 30, 90], "days", ""),
        ("scan_date", ("2018-11", "2018-12", "2019-01"), [0, 30, 61], "days", "first of each month is taken"),
        ("scan_date", ("201811", "201812", "201901"), [0, 30, 61], "days", "first of each month is taken"),
        ("date", ("2018", "2019", "2021"), [2018, 2019, 2021], "years", ""),
        ("age", ("018M", "024M", "003Y"), [18, 24, 36], "months", ""),
        ("age", ("071Y", "072Y", "074Y"), [71, 72, 74], "years", ""),
        ("age_weeks", (20190131, 20190132, 20190133), [20190131, 20190132, 20190133], "weeks", "130 years"),
    ],
)
def test_dates_and_ages_in_every_form(
    tmp_path: Path, column: str, times: tuple[object, ...], expected: list[float], unit: str, told: str
) -> None:
    catalog = find(write_bids(tmp_path, {"01": dict(zip("123", times, strict=True))}, column=column))
    if "130" in told:
        assert catalog.subjects == ()
        assert len(messages(catalog)) == 1
        assert "age_weeks of none of 3 visits can be used, the first is '20190131'" in messages(catalog)[0]
        return
    assert [scan.time for scan in catalog.subjects[0].scans] == pytest.approx(expected, abs=1e-5)
    assert (catalog.time_unit, messages(catalog)) == (unit, [])
    assert [told in line for line in messages(catalog, fatal=False)] == [True] * bool(told)


def test_a_column_that_cannot_be_read_is_one_problem(tmp_path: Path) -> None:
    times = {"1": "01/31/2019", "2": "02/01/2019", "3": "03/03/2019"}
    catalog = find(write_bids(tmp_path, {"01": times, "02": times}, column="scan_date"))
    assert catalog.subjects == ()
    (line,) = messages(catalog)
    assert "scan_date of none of 6 visits can be used, the first is '01/31/2019', which can be read in more" in line
    assert "ISO date" in line


def test_codes_for_missing_ages(tmp_path: Path) -> None:
    times = {"1": 72.1, "2": 73, "3": 999, "4": -4, "5": 0, "6": 75}
    catalog = find(write_bids(tmp_path, {"01": times, "02": {"1": 60, "2": 61.5}}, column="age"))
    assert visits(catalog.subjects[0]) == [("1", 72.1), ("2", 73.0), ("6", 75.0)]
    lines = messages(catalog)
    assert len(lines) == 3
    for text, session in (("'999'", 3), ("'-4'", 4), ("'0'", 5)):
        assert sum(text in line and f"ses-{session}_T1w" in line and "missing value" in line for line in lines) == 1
    newborns = find(write_bids(tmp_path / "b", {"01": {"1": 0, "2": 0.5, "3": 1}}, column="age"))
    assert (len(newborns.subjects[0].scans), newborns.problems) == (3, ())


def write_json(path: Path, content: object) -> None:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def test_units_of_sidecars(tmp_path: Path) -> None:
    root = write_bids(tmp_path, {"01": {"1": 3, "2": 9}, "02": {"1": 2, "2": 8}}, column="age")
    write_json(root / "participants.json", {"age": {"Units": "years"}})
    assert find(root).time_unit == "years"
    write_json(root / "sessions.json", {"age": {"Description": "at the session", "Units": "month"}})
    catalog = find(root)
    assert (catalog.time_unit, visits(catalog.subjects[0])) == ("months", [("1", 3.0), ("2", 9.0)])
    assert catalog.problems == ()
    write_json(root / "sub-02" / "sub-02_sessions.json", {"Age": {"Units": "years"}})
    mixed = find(root)
    assert [visits(subject) for subject in mixed.subjects] == [[("1", 3.0), ("2", 9.0)], [("1", 24.0), ("2", 96.0)]]
    assert "age is in months and years, as the sidecars say; converted to months" in messages(mixed, fatal=False)[0]
    assert find(root, time_unit="moons").time_unit == "moons"
    write_json(root / "sub-02" / "sub-02_sessions.json", {"age": {"Units": "days"}})
    unequal = find(root)
    assert [subject.name for subject in unequal.subjects] == ["01"]
    assert "no exact number of months" in messages(unequal)[0]
    write_json(root / "sub-02" / "sub-02_sessions.json", "{")
    assert "sub-02_sessions.json: is no sidecar" in messages(find(root), fatal=False)[0]


def test_a_sidecar_against_the_name_of_the_column(root: Path) -> None:
    write_json(root / "sessions.json", {"age_weeks": {"Units": "days"}})
    catalog = find(root)
    assert catalog.time_unit == "weeks"
    assert "in days, against the name of the column; weeks is used" in messages(catalog, fatal=False)[0]


def write_scans_tables(root: Path, times: dict[str, str], column: str = "acq_time") -> None:
    for session, time in times.items():
        rows = f"filename {column} operator\nanat/sub-01_ses-{session}_T1w.nii.gz {time} x\nanat/other.nii.gz n/a x"
        write_table(root / "sub-01" / f"ses-{session}" / f"sub-01_ses-{session}_scans.tsv", rows)


DATES = {"1": "2015-02-03T09:00:00", "2": "2015-08-03T09:00:00", "3": "2016-02-03T09:00:00"}


def test_times_in_the_scans_tables(tmp_path: Path) -> None:
    root = write_bids(tmp_path, {"01": dict.fromkeys("123", 0)}, column="mmse")
    write_scans_tables(root, DATES)
    catalog = find(root)
    assert visits(catalog.subjects[0]) == [("1", 0.0), ("2", 181.0), ("3", 365.0)]
    assert (catalog.time_unit, catalog.problems) == ("days", ())
    assert dict(catalog.subjects[0].scans[0].covariates) == {"mmse": 0.0}
    write_table(root / "sub-01" / "sub-01_sessions.tsv", "session_id age\nses-1 61.2\nses-2 61.7\nses-3 62.2")
    assert find(root).time_unit == "years", "a table of sessions goes before"
    assert find(root, time_column="acq_time").time_unit == "days"
    (root / "sub-01" / "ses-1" / "sub-01_ses-1_scans.tsv").write_text("file\tacq_time\n")
    assert "has no column filename" in messages(find(root, time_column="acq_time"), fatal=False)[0]


def test_whole_years_beside_dates(tmp_path: Path) -> None:
    root = write_bids(tmp_path, {"01": {"1": 72, "2": 72, "3": 73}}, column="age")
    assert "has the same age as" in messages(find(root))[0]
    rows = "\n".join(f"ses-{session} {time} {{}}" for session, time in DATES.items())
    table = root / "sub-01" / "sub-01_sessions.tsv"
    for ages in ((72, 72, 73), (72, 72, 72), (72, 73, 74), (72.5, 72.5, 73.5)):
        write_table(table, "session_id acq_time age\n" + rows.format(*ages))
        catalog = find(root)
        assert visits(catalog.subjects[0]) == [("1", 0.0), ("2", 181.0), ("3", 365.0)]
        (line,) = messages(catalog, fatal=False)
        assert "the dates in acq_time are used; set data.time_column=age" in line
    write_table(table, "session_id acq_time age\n" + rows.format(72.1, 72.6, 73.1))
    assert find(root).time_unit == "years", "these ages are exact"
    write_table(table, "session_id acq_time age\n" + rows.format(72, 72, 73).replace(DATES["3"], "n/a"))
    line = messages(find(root))[0]
    assert "has the same age as" in line
    assert "set data.time_column=acq_time" in line
    write_table(table, "session_id age\nses-1 72\nses-2 72\nses-3 73")
    write_scans_tables(root, DATES)
    assert visits(find(root).subjects[0]) == [("1", 0.0), ("2", 181.0), ("3", 365.0)]


def test_labels_that_lost_their_zeros(tmp_path: Path) -> None:
    root = write_bids(tmp_path, {"01": {"01": 0, "02": 1}, "02": {"M00": 0, "M06": 1}, "3": {"1": 0, "2": 1}})
    write_table(root / "sub-01" / "sub-01_sessions.tsv", "session_id age\n1 70.5\n2 71.5")
    write_table(root / "sub-02" / "sub-02_sessions.tsv", "session_id age\nM0 60.5\nM6 61.5")
    write_table(root / "sub-3" / "sub-3_sessions.tsv", "session_id age\n01 50.5\n1 51\n2 52")
    write_table(root / "participants.tsv", "participant_id sex\n1 F\n2 M\n3 F")
    catalog = find(root)
    assert [visits(subject) for subject in catalog.subjects] == [
        [("01", 70.5), ("02", 71.5)],
        [("M00", 60.5), ("M06", 61.5)],
        [("1", 51.0), ("2", 52.0)],
    ]
    assert [subject.covariates for subject in catalog.subjects] == [{"sex": "F"}, {"sex": "M"}, {"sex": "F"}]
    assert messages(catalog) == []
    lines = messages(catalog, fatal=False)
    assert len(lines) == 2
    assert "rows of 2 tables are matched without zeros, such as '1' of sub-01_sessions.tsv to '01'" in lines[0]
    write_table(root / "sub-3" / "sub-3_sessions.tsv", "session_id age\n01 50.5\n001 51\n2 52")
    assert ["sub-3_ses-1" in line and "no age in the tables" in line for line in messages(find(root))][:1] == [True]


def test_one_remark_for_many_subjects(tmp_path: Path) -> None:
    root = write_bids(tmp_path, {f"{n:02d}": {"1": 40, "2": 30} for n in range(11)})
    (line,) = messages(find(root), fatal=False)
    assert "of 11 subjects (00, 01, 02, …) are in another order than their names, of 00 2, 1" in line


def test_names_without_numbers_have_no_order(tmp_path: Path) -> None:
    times = {"pre": 1, "post": 2, "end": 3}
    assert find(write_bids(tmp_path / "a", {"01": times})).problems == ()
    assert find(write_bids(tmp_path / "b", {"01": {"baseline": 0, "M12": 12, "M06": 6}})).problems == ()


def test_a_pattern_or_suffix_that_fits_nothing(root: Path) -> None:
    with pytest.raises(
        DataError, match=r"data\.match='\*_run-1_\*' fits the path of no scan _T1w\.nii\.gz in 2 folders"
    ):
        find(root, match="*_run-1_*")
    with pytest.raises(DataError, match=r"no scan _FLAIR\.nii\.gz in 2 folders sub-\*, only T1w; choose another data"):
        find(root, suffix="FLAIR")


def test_the_mend_names_columns_that_may_have_times(root: Path) -> None:
    for subject in ("01", "02"):
        write_table(root / f"sub-{subject}" / f"sub-{subject}_sessions.tsv", "session_id\nses-1\nses-2")
    write_table(root / "participants.tsv", "participant_id\nsub-01\nsub-02")
    with pytest.raises(DataError, match=r"; add one, or set data\.time_column=order to number the visits") as raised:
        find(root)
    assert not {"session_id", "participant_id"} & set(str(raised.value).replace(",", " ").split())


def test_a_column_by_name_or_the_order(root: Path) -> None:
    for subject in ("01", "02"):
        table = "session_id age_weeks dose\nses-1 1 5\nses-2 2 7\nses-10 3 11"
        write_table(root / f"sub-{subject}" / f"sub-{subject}_sessions.tsv", table)
    dose = find(root, time_column="dose")
    assert visits(dose.subjects[0]) == [("1", 5.0), ("2", 7.0), ("10", 11.0)]
    assert dose.time_unit == "dose"
    assert dose.subjects[0].scans[0].covariates == {"age_weeks": 1.0}
    order = find(root, time_column="order")
    assert visits(order.subjects[0]) == [("1", 0.0), ("2", 1.0), ("10", 2.0)]
    assert order.time_unit == "visits"
    with pytest.raises(DataError, match=r"no column Dose .*age_weeks, dose.*data\.time_column=order"):
        find(root, time_column="Dose")


def test_a_stray_column_does_not_go_before_that_of_all_others(root: Path) -> None:
    write_bids(root, {"03": {"1": 1, "2": 2}}, column="age")
    catalog = find(root)
    assert [subject.name for subject in catalog.subjects] == ["01", "02"]
    assert len(messages(catalog)) == 2
    assert catalog.time_unit == "weeks"


def test_covariates_and_groups(root: Path) -> None:
    write_table(
        root / "participants.tsv",
        "participant_id age sex Diagnosis site\nsub-01 61 F AD 3\n02 n/a M n/a N/A\n09 1 M AD 3",
    )
    write_table(root / "sub-02" / "sub-02_sessions.tsv", "session_id age_weeks mmse\n1 31 28\nses-2 39 n/a")
    first, second = find(root).subjects
    assert first.covariates == {"age": 61.0, "sex": "F", "Diagnosis": "AD", "site": 3.0}
    assert (first.group, second.group) == ("AD", "")
    assert second.covariates == {"sex": "M"}
    assert [scan.covariates for scan in second.scans] == [{"mmse": 28.0}, {}]


def test_participants_with_a_row_for_each_session(tmp_path: Path) -> None:
    write_bids(tmp_path, {"01": {"1": 0, "2": 0}})
    (tmp_path / "sub-01" / "sub-01_sessions.tsv").unlink()
    rows = "participant_id session_id age sex weight\nsub-01 ses-1 61 F 70\nsub-01 ses-2 62 F 72"
    write_table(tmp_path / "participants.tsv", rows)
    (subject,) = find(tmp_path).subjects
    assert visits(subject) == [("1", 61.0), ("2", 62.0)]
    assert subject.covariates == {"sex": "F"}
    assert [scan.covariates for scan in subject.scans] == [{"weight": 70.0}, {"weight": 72.0}]


def test_an_age_a_participant_gives_no_times(tmp_path: Path) -> None:
    write_bids(tmp_path, {"01": {"1": 0, "2": 0}}, column="mmse")
    write_table(tmp_path / "participants.tsv", "participant_id age\nsub-01 61")
    with pytest.raises(DataError, match=r"mmse.*participants.tsv has age but no row a session"):
        find(tmp_path)


def test_damaged_tables(root: Path) -> None:
    table = "participant_id sex\nsub-01 F\nsub-01 M\nsub-02 F 3\nn/a M"
    write_table(root / "participants.tsv", table)
    sessions = root / "sub-02" / "sub-02_sessions.tsv"
    write_table(sessions, "session_id age_weeks\nses-1 31\nses-1 32\nses-2 39")
    catalog = find(root)
    assert [dict(subject.covariates) for subject in catalog.subjects] == [{"sex": "F"}, {}]
    assert visits(catalog.subjects[1]) == [("1", 31.0), ("2", 39.0)]
    lines = messages(catalog)
    assert len(lines) == 4
    for part in (
        "row 3 is another one of '01'",
        "row 4 has 3 fields",
        "row 5 has no participant_id",
        "another one of '1'",
    ):
        assert sum(part in line for line in lines) == 1
    assert "has no rows for 1 subjects (02)" in messages(catalog, fatal=False)[0]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"age_weeks\n3\n", "has no column session_id, only age_weeks"),
        (b"session_id\tage\tage\n1\t2\t3\n", "two columns called 'age'"),
        (b"session_id\tage_weeks\n1\t" + b"9" * 200_000 + b"\n", "cannot be read (field larger"),
        (b"\xff\x00\xfe rubbish", "has no column session_id"),
    ],
)
def test_sessions_tables_that_are_none(root: Path, content: bytes, expected: str) -> None:
    (root / "sub-02" / "sub-02_sessions.tsv").write_bytes(content)
    catalog = find(root)
    assert [subject.name for subject in catalog.subjects] == ["01"]
    assert sum(expected in line for line in messages(catalog)) == 1


def test_latin_letters_byte_order_mark_and_old_line_ends(root: Path) -> None:
    content = b"\xef\xbb\xbfsession_id\tage_weeks\tsite\rses-1\t31\tK\xf6ln\rses-2\t39\tBonn\r"
    (root / "sub-02" / "sub-02_sessions.tsv").write_bytes(content)
    catalog = find(root)
    assert messages(catalog) == []
    assert [scan.covariates["site"] for scan in catalog.subjects[1].scans] == ["K\ufffdln", "Bonn"]


def test_no_study(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.*data\.root"):
        find(tmp_path / "nowhere")
    write_bids(tmp_path / "inside", {"01": {"1": 0, "2": 1}})
    with pytest.raises(DataError, match=r"no folders sub-\*.*data\.root.*data\.layout=bids"):
        find(tmp_path)


def test_a_study_behind_a_url(root: Path, s3_bucket: str) -> None:
    bucket = Storage(f"{s3_bucket}/bids study")
    for entry in Storage(str(root)).entries():
        bucket.write(entry.path, (root / entry.path).read_bytes())
    catalog = find(bucket.location)
    assert messages(catalog) == []
    assert [visits(subject) for subject in catalog.subjects] == [visits(subject) for subject in find(root).subjects]
    scan = catalog.subjects[0].scans[0]
    assert bucket.read(scan.file) == (root / scan.file).read_bytes()
    assert scan.size == (root / scan.file).stat().st_size
    assert scan.modified > 0
    bucket.write("sub-02/ses-1/anat/sub-02_ses-1_run-2_T1w.nii", b"scan")
    line = messages(find(bucket.location))[0]
    assert f"{s3_bucket}/bids study/sub-02/ses-1/anat/sub-02_ses-1_" in line
    with pytest.raises(DataError, match="cannot be listed"):
        find(f"{s3_bucket}/nowhere")


@pytest.mark.real_data
def test_real_studies(real_data: Path, tmp_path: Path) -> None:
    growth = find(real_data / "brain_growth_bids", suffix="T2w")
    (subject,) = growth.subjects
    assert visits(subject) == [(f"ga{week}", float(week)) for week in range(21, 35)]
    assert growth.time_unit == "weeks"
    assert growth.problems == ()

    with pytest.raises(DataError, match=r"no column says.*data\.time_column=order"):
        find(real_data / "ms_two_visits_bids", suffix="FLAIR")
    lesions = find(real_data / "ms_two_visits_bids", suffix="FLAIR", time_column="order")
    assert [visits(subject) for subject in lesions.subjects] == [[("1", 0.0), ("2", 1.0)]] * 4
    assert lesions.problems == ()
    some = find(real_data / "ms_two_visits_bids", time_column="order")
    assert [subject.name for subject in some.subjects] == ["01", "12"]
    assert [line[:2] for line in messages(some)] == ["03", "19"]
