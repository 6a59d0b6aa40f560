"""A trained model as the files that it was stored in: read once, built wherever it is needed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from safetensors import SafetensorError
from safetensors.torch import load

from sadm_ray.config import SamplingSettings
from sadm_ray.errors import ConfigError, DataError
from sadm_ray.model.base_model import WEIGHTS, SequenceModel, ema_name
from sadm_ray.model.model_config import CONFIG, ModelConfig
from sadm_ray.model.recalibration import NOT_CALIBRATED, Recalibration
from sadm_ray.model.registry import build_model
from sadm_ray.model.renamed_weights import with_current_weight_names
from sadm_ray.model.seen_subjects import NOT_RECORDED, SeenSubjects
from sadm_ray.storage import Storage


@dataclass(frozen=True)
class StoredModel:
    """The bytes of a model (`SequenceModel.save_pretrained`), which travel to actors that cannot see its folder.

    `weights` is an array so that the actors of one machine share Ray's copy of it. `source` is where it was read, for
    messages; `seen` are those who taught it, `recalibration` what it is corrected by.
    """

    source: str
    config: bytes
    weights: UInt8[np.ndarray, " n"]
    seen: SeenSubjects = NOT_RECORDED
    recalibration: Recalibration = NOT_CALIBRATED

    @classmethod
    def read(cls, folder: Path | str, ema: float | None = None) -> StoredModel:
        """Read a model's folder, local or at a URL.

        Args:
            ema: one of several averages of the weights, by its decay; none: the one that was chosen.

        Raises:
            DataError: the folder holds no model, or no such average, or cannot be read.
        """
        storage = Storage(str(folder))
        name = WEIGHTS if ema is None else f"{ema_name(ema)}.safetensors"
        try:
            missing = [file for file in (CONFIG, WEIGHTS, name) if storage.entry(file) is None]
            if ema is not None and missing == [name]:
                there = [entry.path.removesuffix(".safetensors") for entry in storage.entries()]
                averages = ", ".join(file for file in there if file.startswith("ema-")) or "none by name"
                raise DataError(
                    f"{storage.location}: no average {ema_name(ema)} here, but {averages}; see train.ema_decays"
                )
            if missing:
                raise DataError(f"{storage.location}: no trained model here ({missing[0]} is missing); train one first")
            weights = np.frombuffer(storage.read(name), np.uint8)
            digest = hashlib.sha256(weights.data).hexdigest()
            known = SeenSubjects.read(storage, digest), Recalibration.read(storage, digest)
            return cls(storage.where(name), storage.read(CONFIG), weights, *known)
        except OSError as error:
            raise DataError(f"{storage.location}: cannot be read ({str(error).splitlines()[0]})") from None

    @property
    def digest(self) -> str:
        """SHA-256 of the model's settings and weights."""
        digest = hashlib.sha256(self.config)
        digest.update(self.weights.data)
        return digest.hexdigest()

    def recalibrated(self, sampling: SamplingSettings) -> StoredModel:
        """With its recalibration for these settings of sampling; without any if it was fitted with others."""
        return self if self.recalibration.fits(sampling) else replace(self, recalibration=NOT_CALIBRATED)

    @property
    def identity(self) -> str:
        """Which volumes it draws: its `digest`, and if it is recalibrated that of the corrections too."""
        if not self.recalibration.subjects:
            return self.digest
        return hashlib.sha256((self.digest + self.recalibration.content).encode()).hexdigest()

    def build(self, device: torch.device | str = "cpu") -> SequenceModel:
        """The model itself, ready to be used.

        Raises:
            DataError: it is damaged.
        """
        folder, _, weights = self.source.rpartition("/")
        try:
            model = build_model(ModelConfig.read(self.config, f"{folder}/{CONFIG}"))
        except (ValueError, ConfigError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{folder}/{CONFIG}: not a model's config ({reason})") from None
        try:
            model.load_state_dict(with_current_weight_names(load(self.weights.tobytes())))
        except (SafetensorError, RuntimeError) as error:
            raise DataError(f"{folder}/{weights}: cannot be read ({str(error).splitlines()[0]})") from None
        return model.to(device).eval()


def load_model(folder: Path | str, device: torch.device | str = "cpu", ema: float | None = None) -> SequenceModel:
    """Read and build what `SequenceModel.save_pretrained` wrote; arguments and errors are those of `StoredModel`."""
    return StoredModel.read(folder, ema).build(device)
