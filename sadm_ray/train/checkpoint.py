"""The checkpoints of a run: folders that are whole or not there, on any storage.

    checkpoint-00000200/
      config.json             the model's own
      weights.safetensors     what training goes on from
      ema-<decay>.safetensors the averages: what is used afterwards
      optimizer.safetensors   its moments
      state.json              where training stands, settings, digests, versions
      manifest.json           size and SHA-256 of each file; written last, which makes the checkpoint one
    best/                     the same few files for the average that did best in validation

Randomness needs no file: it follows from the seed and the step (`sadm_ray.data.load.rng`). Ray Train's own checkpoints
are not used: they have no checksums, the newest may be forgotten when the driver dies, and a write that fails ends the
run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from sadm_ray.errors import DataError
from sadm_ray.model.model_config import CONFIG, ModelConfig
from sadm_ray.model.renamed_weights import current_weight_name, with_current_weight_names
from sadm_ray.storage import Storage
from sadm_ray.train.train_state import OPTIMIZER, StateTensors

log = logging.getLogger(__name__)

STATE, MANIFEST, BEST = "state.json", "manifest.json", "best"
_NAME = re.compile(r"checkpoint-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """One that was found whole: its folder, and what `state.json` tells."""

    storage: Storage
    folder: str
    told: Mapping[str, Any]

    @property
    def step(self) -> int:
        """How many steps were done."""
        return int(self.told["step"])

    def read(self, name: str) -> bytes:
        """One of its files."""
        return self.storage.read(f"{self.folder}/{name}")

    def tensors(self) -> StateTensors:
        """All that `TrainState.state` gave."""
        manifest = json.loads(self.read(MANIFEST))
        files = [name for name in manifest if name.endswith(".safetensors")]
        tensors = {name.removesuffix(".safetensors"): load(self.read(name)) for name in files}
        return {name: _current(name, each) for name, each in tensors.items()}


class Checkpoints:
    """The checkpoints of one run.

    Args:
        location: their folder, local or a URL.
        keep: how many of the newest are kept.
        warn: is given one line when a damaged checkpoint is passed over.
    """

    def __init__(self, location: str, keep: int = 2, warn: Callable[[str], None] = log.warning) -> None:
        self.storage, self._keep, self._warn = Storage(location), keep, warn

    def write(
        self, config: ModelConfig, state: StateTensors, told: Mapping[str, Any], folder: str | None = None
    ) -> None:
        """Write a checkpoint of the step that `told` names, or the one called `folder`; then remove older ones.

        Raises:
            OSError: the storage is full or out of reach. Those that were there are untouched.
        """
        folder = folder or f"checkpoint-{told['step']:08d}"
        self.storage.delete(f"{folder}/{MANIFEST}")  # of an earlier one of this name: it is no more whole
        manifest = {}

        def put(name: str, content: bytes) -> None:
            self.storage.write(f"{folder}/{name}", content)
            manifest[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

        put(CONFIG, config.model_dump_json(indent=2).encode())
        for name, tensors in state.items():
            put(f"{name}.safetensors", save(tensors))
        put(STATE, json.dumps(told, indent=2).encode())
        self.storage.write(f"{folder}/{MANIFEST}", json.dumps(manifest, indent=2).encode())
        if folder != BEST:
            for old in self._folders()[self._keep :]:
                self.storage.remove(old)

    def newest(self) -> Checkpoint | None:
        """The newest that is whole; a damaged one is told of and the one before is taken.

        Raises:
            DataError: there are some, all of them damaged.
        """
        # Without a manifest, writing it was interrupted: that is no damage, be it the only one.
        folders = [folder for folder in self._folders() if self.storage.entry(f"{folder}/{MANIFEST}")]
        for folder in folders:
            found = self.verified(folder)
            if found is not None:
                return found
        if folders:
            raise DataError(
                f"{self.storage.where()}: every checkpoint in it is damaged; take another run.name, or remove the "
                "folder to begin anew"
            )
        return None

    def verified(self, folder: str) -> Checkpoint | None:
        """The checkpoint in this folder, if it is whole: what its files hold is what was written."""
        try:
            told = self.storage.read(f"{folder}/{MANIFEST}")
        except FileNotFoundError:
            return None
        try:
            manifest = json.loads(told)
            for name, facts in manifest.items():
                content = self.storage.read(f"{folder}/{name}")
                if hashlib.sha256(content).hexdigest() != facts["sha256"]:
                    raise ValueError(f"{name} is not what was written")  # noqa: TRY301
            return Checkpoint(self.storage, folder, json.loads(self.storage.read(f"{folder}/{STATE}")))
        except (OSError, ValueError, KeyError) as error:
            line = str(error).splitlines()[0]
        self._warn(f"{self.storage.where(folder)}: a damaged checkpoint ({line}); going on from the one before")
        return None

    def _folders(self) -> list[str]:
        """Of all checkpoints, also unfinished ones, the newest first."""
        return sorted((name for name in self.storage.folders() if _NAME.fullmatch(name)), reverse=True)


def _current(file: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By the names that the parameters have now; the optimizer's are `<moment>.<parameter>`."""
    if file != OPTIMIZER:
        return with_current_weight_names(tensors)
    parts = {key: key.partition(".") for key in tensors}
    return {f"{moment}.{current_weight_name(name)}": tensors[key] for key, (moment, _, name) in parts.items()}
