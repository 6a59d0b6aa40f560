"""Less than a minute for every change: a training step of our model beside MONAI's on a small volume, by turns.

    python -m benchmarks.short             the figures
    python -m benchmarks.short --check     also fails where the ratio is below half of the recorded one

One thread, float32, the model of `configs/acdc.yaml`. The ratio is of one run: it hardly depends on the machine.
"""

from __future__ import annotations

import argparse
import sys

import torch

from benchmarks.figures import say, side_by_side
from benchmarks.networks import CONFIGS, forward_backward, monai_forward_backward
from benchmarks.recorded import recorded_value
from sadm_ray.config.settings_file import load_settings

RATIO = "16×64×64: times faster a forward and backward pass than MONAI's network"
_SHARE = 0.5
"""Of the recorded ratio: machines differ by less, and a step that is twice as slow does not pass."""


def problem(ratio: float, recorded: float) -> str:
    """Why a ratio does not pass; empty if it does."""
    if ratio >= _SHARE * recorded:
        return ""
    return (
        f"benchmarks.short: our step is {ratio:.3g} times as fast as MONAI's, less than half of the {recorded:.3g} in "
        "benchmarks/results/short.json: find what made it slow, or record it with `python -m benchmarks.record short`"
    )


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit 1 if the ratio is below half of the recorded one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = load_settings(CONFIGS / "acdc.yaml", ["data.shape=[16, 64, 64]"])
    ours, theirs = side_by_side(forward_backward(settings), monai_forward_backward(settings), repeats=4)
    say("16×64×64: forward and backward", ours, "CPU s", "lower")
    say("16×64×64: MONAI DiffusionModelUNet, forward and backward", theirs, "CPU s", "lower")
    say(RATIO, theirs / ours, "1", "higher")
    if options.check and (line := problem(theirs / ours, recorded_value("short", RATIO))):
        sys.exit(line)


if __name__ == "__main__":
    main()
