"""The kinds of models by name: ours, and the rivals that it is compared with."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors.torch import load_model as load_weights

from sadm_ray.config import ModelKind
from sadm_ray.errors import DataError
from sadm_ray.model.config import CONFIG, ModelConfig
from sadm_ray.model.rivals.ddm import Ddm
from sadm_ray.model.rivals.flow import Flow
from sadm_ray.model.rivals.gan import Gan
from sadm_ray.model.rivals.regression import Regression
from sadm_ray.model.sadm import Sadm
from sadm_ray.model.sequence_model import WEIGHTS, SequenceModel, ema_name

KINDS: dict[ModelKind, type[SequenceModel]] = {
    "sadm": Sadm,
    "sadm_paper": Sadm,
    "diffusion_only": Sadm,
    "regression": Regression,
    "flow": Flow,
    "gan": Gan,
    "ddm": Ddm,
}

_PLAIN = {"target": "difference", "voxel_variance": False}
_OWN_MODEL = {"sadm_paper": {**_PLAIN, "target": "volume"}, "flow": _PLAIN, "gan": _PLAIN, "ddm": _PLAIN}
_OWN_DIFFUSION = {
    "sadm_paper": {"schedule": "cosine", "shift": 0.0, "prediction": "x", "weighting": "v"},
    "ddm": {"schedule": "linear", "shift": 0.0, "prediction": "eps", "weighting": "v"},
}
"""What a kind is by its definition, whatever the settings say. The networks are the settings' own: equally large."""


def settled(config: ModelConfig) -> ModelConfig:
    """The config with what its kind does not leave open put right."""
    kind = config.model.kind
    return config.model_copy(
        update={
            "model": config.model.model_copy(update=_OWN_MODEL.get(kind, {})),
            "diffusion": config.diffusion.model_copy(update=_OWN_DIFFUSION.get(kind, {})),
        }
    )


def build_model(config: ModelConfig) -> SequenceModel:
    """A new model of the kind that `config.model.kind` says."""
    return KINDS[config.model.kind](settled(config))


def load_model(folder: Path | str, device: torch.device | str = "cpu", ema: float | None = None) -> SequenceModel:
    """Read what `SequenceModel.save_pretrained` wrote.

    Args:
        ema: one of several averages of the weights, by its decay; none: the one that was chosen.

    Raises:
        DataError: the folder holds no model, or a damaged one, or no such average.
    """
    folder = Path(folder)
    weights = folder / (WEIGHTS if ema is None else f"{ema_name(ema)}.safetensors")
    if ema is not None and not weights.exists():
        there = ", ".join(sorted(file.stem for file in folder.glob("ema-*.safetensors"))) or "none by name"
        raise DataError(f"{folder}: no average {weights.stem} here, but {there}; see train.ema_decays")
    try:
        config = ModelConfig.model_validate_json((folder / CONFIG).read_text(encoding="utf-8"))
        model = build_model(config)
        load_weights(model, str(weights))
    except FileNotFoundError as error:
        raise DataError(f"{folder}: no trained model here ({error.filename} is missing); train one first") from None
    except (ValidationError, json.JSONDecodeError) as error:
        raise DataError(f"{folder / CONFIG}: not a model's config ({str(error).splitlines()[0]})") from None
    except Exception as error:  # safetensors raises its own bare exception type
        raise DataError(f"{weights}: cannot be read ({str(error).splitlines()[0]})") from None
    return model.to(device).eval()
