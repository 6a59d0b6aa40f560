from __future__ import annotations

from sadm_ray.data.find import Problem
from sadm_ray.data.find.catalog import merge_alike


def test_equal_warnings_of_many_subjects_are_one() -> None:
    many = [Problem(f"{n:02d}", f"{n}.nii", "no unit; set it", fatal=False) for n in range(11)]
    few = [Problem(f"{n:02d}", f"{n}.nii", "odd; look", fatal=False) for n in range(3)]
    twice = [Problem("00", f"{n}.nii", "twice; look", fatal=False) for n in range(9)]
    fatal = [Problem(f"{n:02d}", f"{n}.nii", "broken; mend it") for n in range(11)]
    study = [Problem("", "root", "no unit; set it", fatal=False)]
    merged = merge_alike([*many, *few, *twice, *fatal, *study], "/study")
    assert [str(problem) for problem in merged if problem.file == "/study"] == [
        "/study: of 11 subjects (00, 01, 02, …): no unit; set it"
    ]
    assert len(merged) == 1 + 3 + 9 + 11 + 1
    assert all(problem in merged for problem in (*few, *twice, *fatal, *study))
