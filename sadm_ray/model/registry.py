"""The registry of models: ours, and the baselines that it is compared with, by `model.kind`."""

from __future__ import annotations

from typing import Any

from sadm_ray.config import ModelKind, NetworkSettings
from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.baselines.deformable_diffusion import DeformableDiffusion
from sadm_ray.model.baselines.flow_matching import FlowMatching
from sadm_ray.model.baselines.gan import Gan
from sadm_ray.model.baselines.regression import Regression
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.model.sadm import Sadm

KINDS: dict[ModelKind, type[SequenceModel]] = {
    "sadm": Sadm,
    "sadm_paper": Sadm,
    "diffusion_only": Sadm,
    "regression": Regression,
    "flow": FlowMatching,
    "gan": Gan,
    "ddm": DeformableDiffusion,
}

_PLAIN: dict[str, Any] = {"target": "difference", "reference": "nearest", "prior": None}
_OWN_MODEL: dict[ModelKind, dict[str, Any]] = {
    "sadm_paper": {**_PLAIN, "target": "volume"},
    "diffusion_only": {"reference": "nearest"},
    "flow": _PLAIN,
    "gan": _PLAIN,
    "ddm": _PLAIN,
}
_OWN_DIFFUSION = {
    "sadm_paper": {"schedule": "cosine", "shift": 0.0, "prediction": "x", "weighting": "v"},
    "ddm": {"schedule": "linear", "shift": 0.0, "prediction": "eps", "weighting": "v"},
}
"""What defines a kind, whatever the settings say. The networks are those of the settings: equally large."""
_WITHOUT_COVARIATES = ("diffusion_only", "gan", "ddm")
"""Kinds that look at one scan and its times only: they cannot be asked for another treatment."""


def with_kind_defaults(config: ModelConfig) -> ModelConfig:
    """The config with the settings that its kind fixes.

    A kind without a prior has its denoiser as large as the prior network would be.
    """
    kind, model = config.model.kind, config.model.model_copy(update=_OWN_MODEL.get(config.model.kind, {}))
    if kind in _WITHOUT_COVARIATES:
        unplanned = tuple(each.model_copy(update={"planned": False}) for each in model.covariates)
        model = model.model_copy(update={"covariates": unplanned})
    prior = config.model.prior or NetworkSettings(**config.model.denoiser.model_dump(exclude={"patch"}))
    if kind == "regression":
        model = model.model_copy(update={"prior": prior})
    elif model.prior is None:
        model = model.model_copy(update={"denoiser": model.denoiser.model_copy(update=prior.model_dump())})
    diffusion = config.diffusion.model_copy(update=_OWN_DIFFUSION.get(kind, {}))
    return config.model_copy(update={"model": model, "diffusion": diffusion})


def build_model(config: ModelConfig) -> SequenceModel:
    """A new model of the kind that `config.model.kind` says."""
    return KINDS[config.model.kind](with_kind_defaults(config))
