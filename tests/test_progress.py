"""Progress is shown to the end, however late its answers come."""

from __future__ import annotations

import logging
import time

import pytest
import ray

from sadm_ray import progress
from sadm_ray.cluster import actor_beside_driver


@pytest.mark.ray
def test_a_late_answer_is_waited_for_and_loses_no_line(
    ray_local: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture
) -> None:
    class Slow(progress.ProgressCounter):
        """As on a machine that is busy for a moment: the first answer takes its lines along and comes late."""

        calls = 0

        def state(self) -> tuple[int, str, list[str]]:
            self.calls += 1
            state = super().state()
            time.sleep(1.5 if self.calls == 1 else 0.0)
            return state

    quick = {"ANSWER_SECONDS": 1.0, "POLL_SECONDS": 0.2, "LINE_SECONDS": 0.0}
    for name, value in quick.items():
        monkeypatch.setattr(progress, name, value)
    reporter = actor_beside_driver(Slow)
    with caplog.at_level(logging.WARNING), progress.workers_progress("work", 5, reporter):
        ray.get(reporter.say.remote("early"))
        time.sleep(3.0)
        ray.get([reporter.say.remote("late"), reporter.reach.remote(4, "nearly")])
    ray.kill(reporter)
    assert [record.getMessage() for record in caplog.records] == ["early", "late"]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("work: 0/5")
    assert lines[-1].startswith("work: 4/5")
    assert lines[-1].endswith("nearly")


def test_the_count_is_shown_at_once_when_the_work_has_ended(capsys: pytest.CaptureFixture) -> None:
    start = time.monotonic()
    with progress.progress("work", 5) as counter:
        counter.add(3, "an earlier note")
        counter.add(2, "the last note")
    assert time.monotonic() - start < progress.POLL_SECONDS
    assert capsys.readouterr().err == "work: 5/5 after 0 s  the last note\n"
