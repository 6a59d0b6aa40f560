"""Settings of the networks and of the diffusion."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from sadm_ray.config.base import Name, Positive, Section, Shape


class CovariateSettings(Section):
    """Something known of a subject or a visit: a category with `levels`, else a number with its mean and deviation.

    `planned`: of the wanted visit it is known too, such as a treatment: it can be asked what will be under another one.
    """

    name: Name
    of: Literal["subject", "visit"] = "subject"
    levels: tuple[str, ...] = ()
    mean: float = 0.0
    deviation: Annotated[float, Field(gt=0)] = 1.0
    planned: bool = False

    @model_validator(mode="after")
    def _visits_are_planned(self) -> Self:
        if self.planned and self.of == "subject":
            raise ValueError(f"{self.name} is planned, which goes with visits; set of: visit, or planned: false")
        return self

    @model_serializer(mode="wrap")
    def _said_where_it_holds(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `planned` where it is false, as earlier versions wrote it: their runs and folders go on."""
        stored: dict[str, Any] = dump(self)
        return {key: value for key, value in stored.items() if key != "planned" or value}


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


class NetworkSettings(Section):
    """A 3D U-Net: one level a width, each half as fine, with so many residual `blocks` on either way."""

    widths: tuple[Positive, ...] = (64, 96)
    blocks: Positive = 2
    heads: Positive = 4


class DenoiserSettings(NetworkSettings):
    """The U-Net that denoises; `patch` voxels (d h w) become channels at its stem."""

    patch: Shape = (2, 4, 4)
    widths: tuple[Positive, ...] = (48, 64)
    blocks: Positive = 1


ModelKind = Literal["sadm", "sadm_paper", "regression", "diffusion_only", "flow", "ddm", "gan"]


class ModelSettings(Section):
    """The networks and what they predict.

    `kind`: ours (`sadm`), as in its paper (`sadm_paper`), without the diffusion (`regression`) or without the attention
    (`diffusion_only`), or a baseline: `flow` matching, the diffusion deformable model `ddm`, the `gan`. What a kind is
    by its definition holds whatever the other settings say (`sadm_ray.model.registry`). `target` states x: the volume
    itself (the paper), its difference from the `reference`, or that difference with motion compensation. The reference
    is the nearest observed frame, or the observed frames before and after the target, interpolated (`neighbours`), each
    first warped along the displacement field between them (`registered`). Differences are divided by `difference_scale`
    (none: measured on the training subjects). `prior`: the network that predicts a mean and a variance of every voxel
    from the condition alone, by displacement fields where the target is `motion`; the denoiser corrects it (none: no
    prior). `frame_blending`: between two registered frames the prior's mean is averaged with the prediction of a small
    network that sees each voxel and its neighbourhood in these alone. `motion_modes`: in so many motions samples differ
    from the prior's mean as wholes (0: in noise of each voxel alone). `pad`: volumes that the patches do not divide are
    padded, rather than refused.
    """

    kind: ModelKind = "sadm"
    target: Literal["volume", "difference", "motion"] = "motion"
    reference: Literal["nearest", "neighbours", "registered"] = "registered"
    difference_scale: Annotated[float, Field(gt=0)] | None = None
    prior: NetworkSettings | None = NetworkSettings()
    frame_blending: bool = False
    motion_modes: Annotated[int, Field(ge=0, le=64)] = 8
    pad: bool = False
    covariates: tuple[CovariateSettings, ...] = ()
    conditioner: ConditionerSettings = ConditionerSettings()
    denoiser: DenoiserSettings = DenoiserSettings()

    @property
    def patch(self) -> Shape:
        """The patch that has to divide a volume (d h w): both stems' patches divide it."""
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
    """A prior preconditions v of a difference (`sadm_ray.diffusion.preconditioning`); motion needs a prior.

    Raises:
        ValueError: the prior goes with something else, or motion goes without a prior.
    """
    if model.prior is not None and diffusion.prediction != "v":
        raise ValueError(
            f"diffusion.prediction: '{diffusion.prediction}' does not go with model.prior; use v, or model.prior=null "
            "model.target=difference"
        )
    if model.prior is not None and model.target == "volume":
        raise ValueError("model.prior is one of differences; set model.prior=null, or model.target=difference")
    if model.prior is None and model.target == "motion":
        raise ValueError("model.target: motion is predicted by the prior; set model.prior, or model.target=difference")
