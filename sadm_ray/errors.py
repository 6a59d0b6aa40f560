"""Errors that a user can mend, apart from our own bugs.

The command line maps these to exit codes in one place (`sadm_ray.cli`); everything else that escapes is a bug and
ends with exit code 1 and its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence


class UserError(Exception):
    """A problem that the user can mend. The message is one line: what is wrong, where, and the mend."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


class Stopped(Exception):  # noqa: N818  (nothing went wrong)
    """The job got SIGTERM, or Ctrl-C, saved its state and ended. The message is one line."""

    def __init__(self, message: str, exit_code: int = 143) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ConfigError(UserError):
    """A setting, an option or an argument is wrong (exit code 2)."""

    exit_code = 2


class DataError(UserError):
    """A file, a subject or a study is wrong or missing (exit code 3).

    Args:
        message: one line that names the file or subject and the mend.
        problems: when several things are wrong at once, a line for each.
    """

    exit_code = 3

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class RayLostError(UserError):
    """Ray has ended under a job, which goes on when it is run again (exit code 4)."""

    exit_code = 4


def reason_of(error: BaseException) -> str:
    """The error that ended a trial or a training in one line, without the traceback that Ray hands on with it."""
    lines = [line for line in str(getattr(error, "cause", None) or error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
