"""The checkpoints of a run: folders that are complete or ignored, on any storage.

    checkpoint-00000200/
      config.json             the model's own
      weights.safetensors     the weights that training goes on from
      ema-<decay>.safetensors the averaged weights, which are used after training
      optimizer.safetensors   the optimizer's moments
      state.json              progress of the training, settings, digests, versions
      manifest.json           size and SHA-256 of each file; written last: a folder without it is no checkpoint
    best/                     the same files at the step with the best validation score

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

from sadm_ray.config import Settings
from sadm_ray.errors import DataError
from sadm_ray.model.model_config import CONFIG, ModelConfig
from sadm_ray.model.renamed_weights import current_weight_name, with_current_weight_names
from sadm_ray.storage import Storage, leads_out
from sadm_ray.train.train_state import OPTIMIZER, StateTensors

log = logging.getLogger(__name__)

STATE, MANIFEST, BEST = "state.json", "manifest.json", "best"
_NAME = re.compile(r"checkpoint-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """A complete, verified checkpoint. `metadata` is the content of `state.json`."""

    storage: Storage
    folder: str
    metadata: Mapping[str, Any]

    @property
    def step(self) -> int:
        """How many steps were done."""
        return int(self.metadata["step"])

    def read(self, name: str) -> bytes:
        """One of its files."""
        return self.storage.read(f"{self.folder}/{name}")

    def tensors(self) -> StateTensors:
        """What `TrainState.state` returned."""
        manifest = json.loads(self.read(MANIFEST))
        files = [name for name in manifest if name.endswith(".safetensors")]
        tensors = {name.removesuffix(".safetensors"): load(self.read(name)) for name in files}
        return {name: _with_current_names(name, each) for name, each in tensors.items()}


class Checkpoints:
    """The checkpoints of one run.

    Args:
        location: their folder, local or a URL.
        keep: how many of the newest are kept.
        warn: called with one line when a damaged checkpoint is skipped.
    """

    def __init__(self, location: str, keep: int = 2, warn: Callable[[str], None] = log.warning) -> None:
        self.storage, self._keep, self._warn = Storage(location), keep, warn

    def write(
        self, config: ModelConfig, state: StateTensors, metadata: Mapping[str, Any], folder: str | None = None
    ) -> None:
        """Write a checkpoint of step `metadata["step"]`, or the one called `folder`; then remove older ones.

        Raises:
            OSError: the storage is full or out of reach. Earlier checkpoints are untouched.
        """
        folder = folder or f"checkpoint-{metadata['step']:08d}"
        self.storage.delete(f"{folder}/{MANIFEST}")  # of an earlier one of this name, which is incomplete from here on
        manifest = {}

        def put(name: str, content: bytes) -> None:
            self.storage.write(f"{folder}/{name}", content)
            manifest[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

        put(CONFIG, config.model_dump_json(indent=2).encode())
        for name, tensors in state.items():
            put(f"{name}.safetensors", save(tensors))
        put(STATE, json.dumps(metadata, indent=2).encode())
        self.storage.write(f"{folder}/{MANIFEST}", json.dumps(manifest, indent=2).encode())
        if folder != BEST:
            for old in self._folders()[self._keep :]:
                self.storage.remove_folder(old)

    def newest(self) -> Checkpoint | None:
        """The newest complete checkpoint; damaged ones are skipped with a warning.

        Raises:
            DataError: all of them are damaged.
        """
        # Without a manifest, writing was interrupted: that is not damage, even if it is the only one.
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
        """The checkpoint in this folder, if every file has the checksum in its manifest; else None."""
        try:
            content = self.storage.read(f"{folder}/{MANIFEST}")
        except FileNotFoundError:
            return None
        try:
            manifest = json.loads(content)
            for name, entry in manifest.items():
                if leads_out(name) or "/" in name:
                    raise ValueError(f"it names {name[:100]!r}, which is no file of it")  # noqa: TRY301
                content = self.storage.read(f"{folder}/{name}")
                if hashlib.sha256(content).hexdigest() != entry["sha256"]:
                    raise ValueError(f"{name} is not what was written")  # noqa: TRY301
            return Checkpoint(self.storage, folder, json.loads(self.storage.read(f"{folder}/{STATE}")))
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            line = str(error).splitlines()[0]
        self._warn(f"{self.storage.where(folder)}: a damaged checkpoint ({line}); going on from the one before")
        return None

    def _folders(self) -> list[str]:
        """The folders of all checkpoints, also of unfinished ones, the newest first."""
        return sorted((name for name in self.storage.folders() if _NAME.fullmatch(name)), reverse=True)


def checkpoints_folder(settings: Settings) -> str:
    """The checkpoints of this run: a folder or a URL."""
    if settings.train.storage is None:
        return str(settings.run_dir / "model.ray" / "checkpoints")
    return f"{settings.train.storage.rstrip('/')}/{settings.run.name}/checkpoints"


def _with_current_names(file: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the current names of parameters; the optimizer's are `<moment>.<parameter>`."""
    if file != OPTIMIZER:
        return with_current_weight_names(tensors)
    parts = {key: key.partition(".") for key in tensors}
    return {f"{moment}.{current_weight_name(name)}": tensors[key] for key, (moment, _, name) in parts.items()}
