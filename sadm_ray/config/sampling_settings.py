"""Settings of sampling: how a volume is drawn from the trained model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sadm_ray.config.base import Fraction, Positive, Precision, SamplerName, Section

Spacing = Literal["time", "log_snr", "karras"]
Interval = tuple[float, float] | None
Decay = Annotated[float, Field(gt=0, lt=1)]
LEAST_GUIDANCE = -1.0
"""Here the condition has no effect any more."""
Guidance = Annotated[float, Field(ge=LEAST_GUIDANCE)]
Temperature = Annotated[float, Field(gt=0, le=1)]


class SamplingSettings(Section):
    """How a volume is drawn from the trained model.

    `guidance_scale`: above 0 the condition's effect is exaggerated, below 0 only a part of it is taken. A model with a
    prior (`model.prior`) has that guided, at no cost; it stands for the first evaluation, at the noisiest λ.
    `guidance_interval`: guidance has its strength between these two λ only and costs nothing outside; none: everywhere.
    `temperature`: the deviation of all noise that is drawn; below 1 the samples differ less than the targets do, and
    each lies nearer to their mean.
    `ema`: which average of the weights, one of the model's `train.ema_decays`; none: the one that validation chose.
    """

    sampler: SamplerName = "euler"
    num_steps: Positive = 4
    spacing: Spacing = "time"
    guidance_scale: Guidance = 0.0
    guidance_interval: Interval = None
    guidance_split: bool = False  # two calls of half the memory instead of one
    stochasticity: Fraction = 0.5  # v of the ancestral sampler; the others have none
    temperature: Temperature = 1.0
    ema: Decay | None = None
    precision: Precision = "float32"
