"""Settings of the networks and of the diffusion."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sadm_ray.config.base import Name, Positive, Section, Shape


class CovariateSettings(Section):
    """Something known of a subject or a visit: a category with `levels`, else a number with its mean and deviation."""

    name: Name
    of: Literal["subject", "visit"] = "subject"
    levels: tuple[str, ...] = ()
    mean: float = 0.0
    deviation: Annotated[float, Field(gt=0)] = 1.0


class ConditionerSettings(Section):
    """The temporal encoder and spatial decoder that turn the observed sequence into the condition.

    `patch` voxels (d h w) become channels at its stem; none: those of the denoiser. Times are divided by `time_scale`,
    so that one is a typical span of a sequence.
    """

    patch: Shape | None = None
    time_scale: Annotated[float, Field(gt=0)] = 1.0
    widths: tuple[Positive, ...] = (32, 64)
    heads: Positive = 4
    layers: Positive = 2
    channels: Positive = 32


class DenoiserSettings(Section):
    """The 3D U-Net: `patch` voxels (d h w) become channels at the stem; then one level a width, each half as fine."""

    patch: Shape = (2, 4, 4)
    widths: tuple[Positive, ...] = (64, 96)
    blocks: Positive = 2
    heads: Positive = 4


ModelKind = Literal["sadm", "sadm_paper", "regression", "diffusion_only", "flow", "ddm", "gan"]


class ModelSettings(Section):
    """The networks and what they predict.

    `kind`: ours (`sadm`), as in its paper (`sadm_paper`), without the diffusion (`regression`) or without the attention
    (`diffusion_only`), or a rival: `flow` matching, the diffusion deformable model `ddm`, the `gan`. What a kind is by
    its definition holds whatever the other settings say (`sadm_ray.model.kinds`). `target` states x: the volume itself
    (the paper), its difference from the nearest observed frame, or that difference with motion compensation.
    Differences are divided by `difference_scale` (none: measured on the training subjects). `voxel_variance` lets the
    denoiser say how much each voxel may change at all (`sadm_ray.diffusion.posterior`). `pad`: volumes that the patches
    do not divide are padded, rather than refused.
    """

    kind: ModelKind = "sadm"
    target: Literal["volume", "difference", "motion"] = "motion"
    difference_scale: Annotated[float, Field(gt=0)] | None = None
    voxel_variance: bool = True
    pad: bool = False
    covariates: tuple[CovariateSettings, ...] = ()
    conditioner: ConditionerSettings = ConditionerSettings()
    denoiser: DenoiserSettings = DenoiserSettings()

    @property
    def patch(self) -> Shape:
        """What has to divide a volume: both stems' patches do (d h w)."""
        other = self.conditioner.patch or self.denoiser.patch
        d, h, w = (math.lcm(*sizes) for sizes in zip(self.denoiser.patch, other, strict=True))
        return d, h, w


class DiffusionSettings(Section):
    """The continuous-time process: log-SNR schedule over [log_snr_min, log_snr_max], shifted, and the prediction.

    `weighting` of the loss by noise level; `weighting_parameter` is γ of min-snr (usually 5), b of sigmoid (−3 to 3).
    """

    schedule: Literal["cosine", "linear", "sigmoid"] = "cosine"
    log_snr_min: float = -12.0
    log_snr_max: float = 12.0
    shift: float = -3.0
    prediction: Literal["v", "x", "eps"] = "v"
    weighting: Literal["v", "min-snr", "sigmoid"] = "v"
    weighting_parameter: float = 5.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.log_snr_min >= self.log_snr_max:
            raise ValueError("log_snr_min must be below log_snr_max")
        return self


def check_prediction(model: ModelSettings, diffusion: DiffusionSettings) -> None:
    """Motion and the variance of voxels are ways of saying v (`sadm_ray.diffusion.posterior`).

    Raises:
        ValueError: something else is to be predicted.
    """
    if diffusion.prediction != "v" and (model.target == "motion" or model.voxel_variance):
        raise ValueError(
            f"diffusion.prediction: '{diffusion.prediction}' goes with neither model.target=motion nor "
            "model.voxel_variance=true; use v, or model.target=difference model.voxel_variance=false"
        )
