"""One command at a time in a run's folder."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sadm_ray.errors import ConfigError
from sadm_ray.run_lock import LOCK, alone_in

HOLD = """
import sys
from sadm_ray.run_lock import alone_in
with alone_in(sys.argv[1], "run.name"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_another_command_is_told_who_is_at_work_since_when_and_goes_on_afterwards(tmp_path: Path) -> None:
    process = holder(tmp_path)
    who = json.loads((tmp_path / LOCK).read_text())
    with pytest.raises(ConfigError) as refused, alone_in(tmp_path, "run.name"):
        pass
    assert refused.value.exit_code == 2
    message = str(refused.value)
    assert message.startswith(f"run.name: {tmp_path} is in use: `-c")
    for part in (who["user"], who["host"], f"process {process.pid}", f"since {who['since']}", "another run.name"):
        assert part in message
    process.communicate("\n")
    with alone_in(tmp_path, "run.name"):
        assert (tmp_path / LOCK).exists()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_command_holds_nothing(tmp_path: Path) -> None:
    process = holder(tmp_path)
    process.kill()
    process.wait()
    assert (tmp_path / LOCK).exists()
    with alone_in(tmp_path, "run.name"):
        pass


def test_steps_of_one_command_enter_again_but_another_thread_does_not(tmp_path: Path) -> None:
    refused: list[ConfigError] = []

    def enter() -> None:
        try:
            with alone_in(tmp_path, "run.name"):
                pass
        except ConfigError as error:
            refused.append(error)

    with alone_in(tmp_path, "run.name"):
        with alone_in(str(tmp_path), "run.name"):
            pass
        assert (tmp_path / LOCK).exists()
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
    assert len(refused) == 1


def test_a_lock_that_says_nothing_is_one_and_a_url_has_none(tmp_path: Path) -> None:
    process = holder(tmp_path)
    (tmp_path / LOCK).write_text("")
    with pytest.raises(ConfigError, match="another command is at work there"), alone_in(tmp_path, "generate.out"):
        pass
    process.communicate("\n")
    with alone_in(tmp_path / "new", "generate.out"):
        pass
    assert not (tmp_path / "new").exists()
    with alone_in("s3://nowhere/at/all", "generate.out"):
        pass
