"""Commands beside each other on one machine, as people start them in their terminals."""

from pathlib import Path

import pytest

from sadm_ray.config.settings_file import dump_settings, with_values
from sadm_ray.data.shards.prepared_study import read_study
from tests.processes import start
from tests.tiny import settings_for

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


def test_three_at_once_of_which_one_is_refused(tmp_path: Path) -> None:
    """Two runs are prepared; of the two commands of one of them, one finds its folder in use."""
    files = {}
    for name in ("one", "other"):
        files[name] = tmp_path / f"{name}.yaml"
        files[name].write_text(dump_settings(with_values(settings_for(tmp_path / "runs"), {"run.name": name})))
    names = ("one", "one", "other")
    logs = [tmp_path / f"{number}.log" for number in range(3)]
    jobs = [
        start("prepare", "--config", str(files[name]), log=log, address=None)
        for name, log in zip(names, logs, strict=True)
    ]
    codes = [job.wait() for job in jobs]
    assert codes[2] == 0, logs[2].read_text()
    assert sorted(codes[:2]) == [0, 2], [log.read_text() for log in logs]
    refused = logs[codes.index(2)].read_text().strip()
    assert refused.startswith(f"error: run.name: {tmp_path / 'runs' / 'one'} is in use: ")
    assert "prepare` of " in refused
    assert "is at work there since" in refused
    assert len(refused.splitlines()) == 1
    for name in names:
        assert read_study(str(tmp_path / "runs" / name / "shards")).subjects["train"]
