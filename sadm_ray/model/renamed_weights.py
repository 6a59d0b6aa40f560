"""Parts of a model that had another name once: weights that were stored under the old name are read under the new."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

RENAMED = {
    "guesser.unet.smooth.": "prior_network.motion.levels.",
    "guesser.": "prior_network.",
    "prior_network.unet.smooth.": "prior_network.motion.levels.",
    "blend.": "frame_blending.",
    "pace.log_pace.": "time_warp.log_rate.",
}
"""Old beginning of a parameter's name → its beginning."""


def current_weight_name(name: str) -> str:
    """The name that a parameter has now."""
    for old, new in RENAMED.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def with_current_weight_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by the names that their parameters have now."""
    return {current_weight_name(name): tensor for name, tensor in weights.items()}
