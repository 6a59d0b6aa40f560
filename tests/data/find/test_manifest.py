from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sadm_ray.config import DataSettings
from sadm_ray.data.find import Catalog, Subject, find_subjects
from sadm_ray.errors import DataError
from sadm_ray.storage import Storage
from tests.data.patients import write_scan, write_table

GOOD = "s0,good0.nii,0\ns0,good1.nii,1"


def find(root: Path | str, **settings: object) -> Catalog:
    return find_subjects(str(root), DataSettings.model_validate({"layout": "manifest", **settings}))


def find_rows(folder: Path, rows: str, header: str = "subject,path,time", **settings: object) -> Catalog:
    return find(write_table(folder / "study.csv", f"{header}\n{rows}"), **settings)


def messages(catalog: Catalog, *, fatal: bool = True) -> list[str]:
    return [str(problem) for problem in catalog.problems if problem.fatal is fatal]


def visits(subject: Subject) -> list[tuple[str, str, float | None]]:
    return [(scan.file, scan.session, scan.time) for scan in subject.scans]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of scans a0.nii to c3.nii and those of one good subject."""
    for name in ("good0", "good1", *(f"{letter}{number}" for letter in "abc" for number in range(4))):
        (tmp_path / f"{name}.nii").write_bytes(b"scan")
    return tmp_path


def test_visits_in_the_order_of_time(root: Path) -> None:
    write_scan(root / "deep" / "a5.nii.gz")
    catalog = find_rows(root, "b,b0.nii,3\nb,./b1.nii,1\na,a0.nii,1\na,deep/a5.nii.gz,10\na,a2.nii,9.5")
    assert catalog.problems == ()
    first, second = catalog.subjects
    assert visits(first) == [("a0.nii", "1", 1.0), ("a2.nii", "2", 9.5), ("deep/a5.nii.gz", "3", 10.0)]
    assert visits(second) == [("./b1.nii", "1", 1.0), ("b0.nii", "2", 3.0)]
    assert (first.scans[2].size, first.split) == ((root / "deep/a5.nii.gz").stat().st_size, None)
    assert catalog.time_unit == "time"


def test_all_columns(root: Path) -> None:
    header = "Subject,PATH,session,age_years,split,group,sex,weight,site"
    rows = """
    a,a0.nii,base,61,train,AD,F,70,n/a
    a,a1.nii,m6,61.5,,AD,F,72,
    b,b0.nii,base,50,TEST,,M,81,3
    b,b1.nii,m6,50.5,test,,M,,3
    """
    catalog = find_rows(root, rows.strip(), header)
    assert catalog.problems == ()
    first, second = catalog.subjects
    assert visits(first) == [("a0.nii", "base", 61.0), ("a1.nii", "m6", 61.5)]
    assert (first.split, first.group, second.split, second.group) == ("train", "AD", "test", "")
    assert first.covariates == {"group": "AD", "sex": "F"}
    assert second.covariates == {"sex": "M", "site": 3.0}
    assert [scan.covariates for scan in first.scans] == [{"weight": 70.0}, {"weight": 72.0}]
    assert [scan.covariates for scan in second.scans] == [{"weight": 81.0}, {}]
    assert catalog.time_unit == "years"


def test_paths_from_everywhere(root: Path, tmp_path_factory: pytest.TempPathFactory, s3_bucket: str) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "x.nii.gz"
    elsewhere.write_bytes(b"a scan")
    Storage(s3_bucket).write("far/y.nii.gz", b"far scan")
    rows = f"a,{elsewhere},0\na,{s3_bucket}/far/y.nii.gz,1\na,../{root.name}/a0.nii,2\na,{s3_bucket}/none.nii,3"
    catalog = find_rows(root, f"{rows}\nb,zz://host/b.nii,0\n{GOOD}")
    assert [(scan.file, scan.size) for scan in catalog.subjects[0].scans] == [
        (str(elsewhere), 6),
        (f"{s3_bucket}/far/y.nii.gz", 8),
    ]
    lines = messages(catalog)
    assert len(lines) == 3
    for part in (f"row 4: '../{root.name}/a0.nii' leads out", f"a: {s3_bucket}/none.nii: no such file; row 5", "zz://"):
        assert sum(part in line for line in lines) == 1


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("../x,a0.nii,0", ["row 4: subject '../x' is not a usable name"]),
        ("/etc,a0.nii,0", ["row 4: subject '/etc'"]),
        (",a0.nii,0", ["row 4: has no subject"]),
        ("a,n/a,0", ["row 4: has no path"]),
        ("a,a0.mha,0", ["row 4: 'a0.mha' is no .nii or .nii.gz file"]),
        ("a,/etc/passwd,0", ["row 4: '/etc/passwd' is no"]),
        ("a,a0.nii,0,9", ["row 4 has 4 fields where the header has 3"]),
        ("a,a0.nii,1e30\na,a1.nii,1", ["time of its visit is '1e30', more than any time can be", "only one"]),
        ("a,a0.nii,-inf\na,a1.nii,1", ["time of its visit is '-inf' where a number", "only one"]),
        (
            "a,a0.nii,1700000000\na,a1.nii,1700000001\na,a2.nii,1700086400",
            ["its time cannot be told from that of"],
        ),
        (
            "a,a0.nii,1700000000\na,a1.nii,1700000001\na,a2.nii,1700000002",
            ["a1.nii: its time cannot be told from", "a2.nii: its time cannot be told from", "only one"],
        ),
        ("a,good1.nii,0", ["row 4: lists the same file as row 3"]),
        ("a,x/.//none.nii,0", ["x/.//none.nii: no such file; row 4"]),
        ("a,a0.nii,0", ["a0.nii: only one visit is left"]),
        ("a,a0.nii,\na,a1.nii,", ["its 2 rows have no time"]),
        (
            "a,a0.nii,0\na,a1.nii,\na,a2.nii,2\na,a3.nii,x",
            ["a1.nii: its visit has no time", "a3.nii: time of its visit"],
        ),
        ("a,a0.nii,0\na,a1.nii,0\na,a2.nii,2", ["a1.nii: has the same time as"]),
        ("a,a0.nii,0\na,none.nii,3", ["none.nii: no such file", "only one visit is left"]),
        ('"a\n",a0.nii,0', []),
        ('a,a0.nii,"1\n2"\na,a1.nii,3\na,a2.nii,4', [r"time of its visit is '1\n2' where"]),
    ],
)
def test_rows_that_cannot_be_used(root: Path, rows: str, expected: list[str]) -> None:
    catalog = find_rows(root, f"{GOOD}\n{rows}")
    assert "s0" in [subject.name for subject in catalog.subjects], "the good one stays"
    lines = messages(catalog)
    assert all("\n" not in line for line in lines)
    for part, line in zip(expected, lines, strict=bool(expected)):
        assert part in line


def test_sessions(root: Path) -> None:
    header = "subject,path,session,time"
    one = "a,a0.nii,1,0\na,a1.nii,1,1\na,a2.nii,2,2"
    other = "b,b0.nii,x/y,0\nb,b1.nii,2,5\nb,b2.nii,10,4"
    catalog = find_rows(root, f"{one}\n{other}\nc,c0.nii,1,0\nc,c1.nii,,1", header)
    assert [visits(subject) for subject in catalog.subjects] == [
        [("a0.nii", "1", 0.0), ("a2.nii", "2", 2.0)],
        [("b2.nii", "10", 4.0), ("b1.nii", "2", 5.0)],
    ]
    lines = messages(catalog)
    assert len(lines) == 4
    for part in ("row 3: has the same subject and session as row 2", "'x/y'", "no session, while", "only one visit"):
        assert sum(part in line for line in lines) == 1
    assert "in the order 10, 2" in messages(catalog, fatal=False)[0]


def test_splits_and_groups_that_contradict(root: Path) -> None:
    header = "subject,path,time,split,group"
    rows = "a,a0.nii,0,train,x\na,a1.nii,1,test,x\nb,b0.nii,0,tset,x\nb,b1.nii,0,val,x\nb,b2.nii,1,val,y"
    catalog = find_rows(root, rows, header)
    (subject,) = catalog.subjects
    assert (subject.name, subject.split, subject.group) == ("b", "val", "x")
    lines = messages(catalog)
    assert "row 4: split is 'tset'" in lines[0]
    assert "splits test and train" in lines[1]
    assert "its group is 'x' and 'y'" in messages(catalog, fatal=False)[0]


def test_cines_beside_visits(root: Path) -> None:
    catalog = find_rows(root, "a,a0.nii,,5\nb,b0.nii,1,6\nb,b1.nii,2,7", "subject,path,time,dose")
    first, second = catalog.subjects
    assert visits(first) == [("a0.nii", "", None)]
    assert (first.cycle, first.scans[0].covariates) == (None, {"dose": 5.0})
    assert len(second.scans) == 2
    (line,) = messages(catalog, fatal=False)
    assert "the frames of 1 4D files (a) have times in s, the visits of other subjects in time" in line
    cines = find_rows(root, "a,a0.nii\nb,b0.nii\nc,c0.nii\nc,c1.nii", "subject,path")
    assert [subject.name for subject in cines.subjects] == ["a", "b"]
    assert (cines.time_unit, messages(cines, fatal=False)) == ("s", [])
    assert "its 2 rows have no time" in messages(cines)[0]
    assert find_rows(root, "a,a0.nii", "subject,path", time_unit="ms").time_unit == "ms"


def test_the_time_column(root: Path) -> None:
    rows = "a,a0.nii,5,2020-01-01\na,a1.nii,6,2020-02-01"
    header = "subject,path,dose,date"
    assert find_rows(root, rows, header).subjects[0].scans[1].time == 31.0
    assert find_rows(root, rows, header).time_unit == "days"
    assert find_rows(root, rows, header, time_column="dose").subjects[0].scans[1].time == 6.0
    by_row = find_rows(root, rows, header, time_column="order")
    assert visits(by_row.subjects[0]) == [("a0.nii", "1", 0.0), ("a1.nii", "2", 1.0)]
    with pytest.raises(DataError, match="no column Dose, only subject, path, dose, date"):
        find_rows(root, rows, header, time_column="Dose")
    with pytest.raises(DataError, match=r"no column says.*data\.time_column=order"):
        find_rows(root, "a,a0.nii,1\na,a1.nii,2", "subject,path,dose")


def test_whole_years_beside_dates(root: Path) -> None:
    rows = "a,a0.nii,61,2020-01-01\na,a1.nii,61,2020-07-01\na,a2.nii,62,2021-01-01"
    catalog = find_rows(root, rows, "subject,path,age,scan_date")
    assert [scan.time for scan in catalog.subjects[0].scans] == [0, 182, 366]
    assert "the dates in scan_date are used" in messages(catalog, fatal=False)[0]
    by_age = find_rows(root, rows, "subject,path,age,scan_date", time_column="age")
    assert "has the same age as" in messages(by_age)[0]
    assert "set data.time_column=scan_date" in messages(by_age)[0]


def test_dates_in_digits_in_parquet(root: Path) -> None:
    """A column with a gap is one of floats."""
    days = [20190131, 20190201, None]
    frame = pd.DataFrame({"subject": "a", "path": ["a0.nii", "a1.nii", "a2.nii"], "time": days})
    frame.to_parquet(root / "study.parquet")
    catalog = find(root / "study.parquet")
    assert [scan.time for scan in catalog.subjects[0].scans] == [0, 1]
    assert catalog.time_unit == "days"


def test_subjects_called_as_missing_values(root: Path) -> None:
    catalog = find_rows(root, f"{GOOD}\nNA,a0.nii,0\nNA,a1.nii,1")
    assert "row 4: has no subject; fill it in (n/a, NA and nan stand for what is missing)" in messages(catalog)[0]


def test_parquet_as_pandas_writes_it(root: Path) -> None:
    frame = pd.DataFrame(
        {
            "subject": [7, 7, 8, 8],
            "path": ["a0.nii", "a1.nii", "b0.nii", "b1.nii"],
            "date": [*map(pd.Timestamp, ("2020-01-01", "2020-01-02 12:00", "2021-01-01")), pd.NaT],
            "weight": [70.5, None, 60, 61],
            "sex": pd.Categorical(["F", "F", "M", "M"]),
        },
        index=[3, 1, 2, 9],
    )
    frame.to_parquet(root / "study.parquet")
    catalog = find(root / "study.parquet")
    (subject,) = catalog.subjects
    assert (subject.name, subject.covariates) == ("7", {"sex": "F"})
    assert [(scan.time, dict(scan.covariates)) for scan in subject.scans] == [(0.0, {"weight": 70.5}), (1.5, {})]
    assert "b1.nii: its visit has no date" in messages(catalog)[0]


def test_no_manifest(root: Path) -> None:
    bad = root / "bad.parquet"
    for content, expected in ((b"no parquet", "cannot be read"), (b"", "is empty")):
        bad.write_bytes(content)
        with pytest.raises(DataError, match=expected):
            find(bad)
    pq.write_table(pa.table({"subject": ["a"], "path": [["a0.nii"]]}), bad)
    with pytest.raises(DataError, match="column 'path' is list"):
        find(bad)
    pq.write_table(pa.table({"subject": ["a"], "path": pa.array([b"\xff"])}), bad)
    with pytest.raises(DataError, match="cannot be read"):
        find(bad)
    whole = pa.table({"subject": ["a"] * 5000, "path": [f"{n}.nii" for n in range(5000)]})
    pq.write_table(whole, bad, compression="gzip")
    damaged = bytearray(bad.read_bytes())
    damaged[200:2000] = bytes(1800)
    bad.write_bytes(damaged)
    with pytest.raises(DataError, match="cannot be read"):
        find(bad)
    with pytest.raises(DataError, match=r"nowhere\.csv: no such file; set data\.root"):
        find(root / "nowhere.csv")
    with pytest.raises(DataError, match=r"data\.layout=manifest needs data\.root to be"):
        find(root)
    with pytest.raises(DataError, match=r"subject;path.*separated by semicolons where a \.csv has commas"):
        find_rows(root, "a;b", "subject;path")
    with pytest.raises(DataError, match="has no rows") as raised:
        find_rows(root, "a", "subject,path")
    assert "row 2 has 1 fields" in raised.value.problems[0]
    with pytest.raises(DataError, match="is empty"):
        find_rows(root, "", "")


def test_a_manifest_behind_a_url(s3_bucket: str) -> None:
    bucket = Storage(f"{s3_bucket}/listed")
    for path in ("scans/a0.nii", "scans/a1.nii", "scans/b0.nii"):
        bucket.write(path, path.encode())
    rows = "a,scans/a0.nii,0\na,./scans/a1.nii,1\nb,scans/b0.nii,0\nb,scans/none.nii,1\nb,scans,2"
    bucket.write("study.csv", f"subject,path,time\n{rows}\n".encode())
    catalog = find(bucket.where("study.csv"))
    (subject,) = catalog.subjects
    assert [bucket.read(scan.file) for scan in subject.scans] == [b"scans/a0.nii", b"scans/a1.nii"]
    assert all(scan.size == 12 and scan.modified > 0 for scan in subject.scans)
    assert f"b: {bucket.location}/scans/none.nii: no such file; row 5" in "\n".join(messages(catalog))
    with pytest.raises(DataError, match="no such file"):
        find(bucket.where("other.csv"))


@pytest.mark.real_data
def test_a_real_cine_by_its_absolute_path(tmp_path: Path, real_data: Path) -> None:
    file = real_data / "pig_cine_cc0" / "pig_E774_sax_4d.nii.gz"
    (subject,) = find_rows(tmp_path, f"pig,{file},test", "subject,path,split").subjects
    assert visits(subject) == [(str(file), "", None)]
    assert (subject.split, subject.scans[0].size) == ("test", file.stat().st_size)
