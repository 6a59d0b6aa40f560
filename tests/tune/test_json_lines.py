"""The journal of a sweep is readable after a crash at any point."""

from pathlib import Path

from sadm_ray.tune.json_lines import JsonLines
from sadm_ray.tune.trial_history import History


def test_every_cut_leaves_all_complete_entries(tmp_path: Path) -> None:
    journal = JsonLines(tmp_path / "below" / "a.jsonl")
    assert journal.entries() == []
    entries = [{"subject": "a", "x": float("inf")}, {"subject": "b", "y": {"z": [1.5]}}]
    for entry in entries:
        journal.append(entry)
    whole = journal.file.read_bytes()
    assert journal.entries() == entries
    for cut in range(len(whole)):
        journal.file.write_bytes(whole[:cut])
        assert journal.entries() == entries[: whole[:cut].count(b"}\n")] or whole[:cut].endswith(b"}")
        journal.append({"subject": "c"})
        assert journal.entries()[-1] == {"subject": "c"}


def test_a_killed_trial_keeps_its_name_and_loses_its_reports(tmp_path: Path) -> None:
    file = tmp_path / "trials.jsonl"
    history = History(file)
    for trial_id, steps in (("one", 1), ("two", 2), ("three", 2)):
        history.start(trial_id, {"num_steps": steps})
        history.report(trial_id, {"gain": 1.0, "subjects": 2})
    history.end("one")

    again = History(file)
    assert [trial.name for trial in again.ended] == ["one"]
    assert [(trial.name, trial.point) for trial in again.unfinished] == [
        ("two", {"num_steps": 2}),
        ("three", {"num_steps": 2}),
    ]
    for trial_id, name in (("four", "two"), ("five", "three"), ("six", "six")):
        again.start(trial_id, {"num_steps": 2})
        assert again.of(trial_id).name == name
        assert again.of(trial_id).reports == []
    again.report("four", {"gain": 2.0, "subjects": 4})
    again.end("four")
    assert [(trial.name, trial.reports) for trial in History(file).ended] == [
        ("one", [{"gain": 1.0, "subjects": 2}]),
        ("two", [{"gain": 2.0, "subjects": 4}]),
    ]


def test_a_retry_replaces_its_reports(tmp_path: Path) -> None:
    history = History(tmp_path / "trials.jsonl")
    for _ in range(2):
        history.start("one", {"num_steps": 1})
        history.report("one", {"gain": 1.0})
    assert len(history.of("one").reports) == 1
