"""The command `sadm-ray`, also as `python -m sadm_ray`."""

from collections.abc import Sequence

from sadm_ray.interruption import take_signals


def command(arguments: Sequence[str] | None = None) -> None:
    """The entry point: a signal ends the command in one line from the first moment on, while modules are imported."""
    take_signals()
    from sadm_ray.cli import main

    main(arguments)


if __name__ == "__main__":
    command()
