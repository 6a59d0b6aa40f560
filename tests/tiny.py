"""Settings of a run so small that it takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sadm_ray.config import Settings


def settings_for(folder: Path, **train: Any) -> Settings:
    """A whole run in under a minute; `train` goes before what training has here."""
    tree = {
        "run": {"name": "tiny", "dir": str(folder)},
        "phantom": {"subjects": 12, "shape": [4, 32, 32]},
        "data": {"shape": [4, 16, 16], "frames": 6, "split": {"method": "balanced", "val": 0.2, "test": 0.25}},
        "model": {
            "conditioner": {"widths": [8, 16], "heads": 2, "layers": 1, "channels": 4},
            "prior": {"widths": [16, 16], "blocks": 1, "heads": 2},
            "denoiser": {"widths": [16, 16], "blocks": 1, "heads": 2},
        },
        "train": {"schedule": "constant", "steps": 4, "batch_size": 4, "checkpoint_every": 2, "log_every": 1, **train},
        "tune": {"trials": 3, "subjects": 2, "num_steps": [1, 2]},
        "generate": {
            "samples": 2,
            "actors": 1,  # each is a process that imports for seconds
            "batch_size": 2,
            "tasks": [
                {"name": "future", "observed": [0, 2], "targets": [3, -1]},
                {"name": "gap", "observed": [0, -1], "targets": [2]},
            ],
        },
    }
    return Settings.model_validate(tree)


def settings_on(folder: Path, shards: str, **train: Any) -> Settings:
    """A run of one worker on shards that are there already."""
    tree = settings_for(folder, **{"workers": 1, **train}).model_dump(mode="json", exclude_defaults=True)
    tree["data"]["shards"] = shards
    return Settings.model_validate(tree)
