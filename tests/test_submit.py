"""What becomes of arguments on their way through `ray submit`, and the forms that docs/cluster.md calls safe."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ARGUMENT = "data.match=*_run-1 & [a, b]; {c: $HOME}"
"""Spaces, braces, a star, a dollar, an ampersand, a semicolon: all that a shell reads as its own."""


def arrived(arguments: list[str], home: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments that the script would get on the head: Ray's own command, through the shells that ssh calls."""
    from click.testing import CliRunner
    from ray.autoscaler._private.command_runner import _with_interactive
    from ray.scripts import scripts

    sent: list[str] = []
    monkeypatch.setattr(scripts, "rsync", lambda *_, **__: None)
    monkeypatch.setattr(scripts, "exec_cluster", lambda *_, cmd, **__: sent.append(cmd))
    called = CliRunner().invoke(scripts.submit, ["cluster.yaml", "pipelines/run.py", *arguments])
    assert called.exit_code == 0, called.output
    (home / "run.py").write_text("import sys; print(*sys.argv[1:], sep='\\n')")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    (home / ".bashrc").write_text(f"export PATH={shlex.quote(path)}\n")  # as a login shell may set another one
    done = subprocess.run(
        ["sh", "-c", " ".join(_with_interactive(sent[0]))],
        env={"HOME": str(home), "PATH": path},
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        start_new_session=True,  # an interactive shell would take the terminal of the tests
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    "given",
    [
        ["--config", "sadm-ray/configs/acdc.yaml", "generate.at=[12,24]", "data.root=s3://bucket/acdc"],
        ["--missing", "-c", "a.yaml"],
    ],
)
def test_plain_arguments_arrive(given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert arrived(["--", *given], tmp_path, monkeypatch) == given


@pytest.mark.parametrize(
    ("given", "got"),
    [
        ("a=[1, 2]", ["a=[1,", "2]"]),
        ("a={b,c}", ["a=b", "a=c"]),
        ("a='x'", ["a=x"]),
        ("a=$HOME", None),  # whatever that is over there
        ("a=1; exit 0", ["a=1"]),
    ],
)
def test_what_the_remote_shell_reads_as_its_own_is_lost(
    given: str, got: list[str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert arrived([given], tmp_path, monkeypatch) == (got or [f"a={tmp_path}"])


def test_quoted_once_more_everything_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert arrived(["--", f"'{ARGUMENT}'", "'a=[1, 2]'"], tmp_path, monkeypatch) == [ARGUMENT, "a=[1, 2]"]


def test_quoted_by_printf_everything_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quoted = subprocess.run(
        ["bash", "-c", 'printf "%q " "$@"', "bash", ARGUMENT, "it's=1"], capture_output=True, text=True, check=True
    ).stdout
    assert arrived(["--", quoted], tmp_path, monkeypatch) == [ARGUMENT, "it's=1"]
