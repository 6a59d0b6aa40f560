"""What is timed on any device: our model and MONAI's, and the work of a training step on random volumes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import convert_conv3d_weight_memory_format

from sadm_ray.config import Precision, SamplingSettings, Settings
from sadm_ray.data.load.rng import SampleRng
from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.mixed_precision import autocast
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.model.registry import build_model
from sadm_ray.train.train_step import Batch

CONFIGS = Path(__file__).parents[1] / "configs"
FAST = SamplingSettings(num_steps=2, guidance_scale=0.0)
DEFAULT = SamplingSettings(num_steps=8, guidance_scale=0.3)
CPU = torch.device("cpu")


def our_model(settings: Settings, device: torch.device = CPU) -> SequenceModel:
    """With its initial weights, as a training worker builds it."""
    torch.manual_seed(0)
    model = settings.model.model_copy(update={"difference_scale": 0.1})
    sadm = build_model(ModelConfig(shape=settings.data.shape, model=model, diffusion=settings.diffusion)).to(device)
    convert_conv3d_weight_memory_format(sadm, torch.channels_last_3d)
    return sadm


def full_batch(settings: Settings, size: int = 1) -> Batch:
    """Whole sequences of noise, on the CPU."""
    slots = settings.data.frames or 12
    frames, present = torch.rand(size, slots, 1, *settings.data.shape), torch.ones(size, slots, dtype=torch.bool)
    return Batch(frames, present, torch.linspace(0, 1, slots).expand(size, slots))


def all_but_last(batch: Batch) -> Tensor:
    """Every frame observed but the target, the last one: the most expensive draw."""
    observed = batch.present.clone()
    observed[:, -1] = False
    return observed


@dataclass(frozen=True)
class Drawn:
    """What a training step computes with: whole sequences, and a noise level and noise for the target of each.

    Drawn on the CPU, so that every kind of device has the same.
    """

    batch: Batch
    t: Float[Tensor, " b"]
    noise: Float[Tensor, "b c D H W"]

    @classmethod
    def of(cls, model: SequenceModel, settings: Settings, size: int) -> Drawn:
        """On the CPU."""
        rng = SampleRng(0, 0, range(size), size)
        noise = rng.normal("noise", model.noise_size(settings.data.shape))
        return cls(full_batch(settings, size), rng.stratified("noise level"), noise)

    def to(self, device: torch.device) -> Drawn:
        """The same on another device."""
        batch = Batch(*(each.to(device) for each in (self.batch.frames, self.batch.present, self.batch.times)))
        return Drawn(batch, self.t.to(device), self.noise.to(device))


def losses(model: SequenceModel, drawn: Drawn, precision: Precision = "float32") -> Float[Tensor, " b"]:
    """The training losses with every frame but the target observed."""
    batch = drawn.batch
    with autocast(batch.frames.device, precision):
        return model(
            batch.frames,
            all_but_last(batch),
            batch.times,
            batch.frames[:, -1],
            batch.times[:, -1],
            drawn.t,
            drawn.noise,
        )


def forward_backward(
    settings: Settings, size: int = 1, device: torch.device = CPU, precision: Precision = "float32"
) -> Callable[[], object]:
    """Our forward and backward pass on a batch; the gradients add up."""
    model = our_model(settings, device)
    drawn = Drawn.of(model, settings, size).to(device)
    return lambda: losses(model, drawn, precision).mean().backward()


def monai_forward_backward(
    settings: Settings, size: int = 1, device: torch.device = CPU, precision: Precision = "float32"
) -> Callable[[], object]:
    """The same of MONAI's diffusion U-Net on volumes of that size.

    Raises:
        ImportError: MONAI is not installed.
    """
    from monai.networks.nets import DiffusionModelUNet

    theirs: nn.Module = DiffusionModelUNet(
        spatial_dims=3,
        in_channels=2,  # the noisy volume, and a condition beside it
        out_channels=1,
        channels=(32, 64, 128),
        attention_levels=(False, False, False),
        num_res_blocks=2,
        num_head_channels=32,
    ).to(device)
    z = torch.rand(size, 2, *settings.data.shape, device=device)
    t = torch.zeros(size, dtype=torch.long, device=device)

    def run() -> None:
        with autocast(device, precision):
            loss = theirs(z, t).square().mean()
        loss.backward()

    return run
