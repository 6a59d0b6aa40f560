"""The diffusion deformable model (Kim & Ye, MICCAI 2022): a diffusion model predicts how the source deforms.

There, source and target are both known and frames between them are wanted. Here the target is to be predicted, so the
diffusion module first draws it, from noise and the source.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from sadm_ray.config import SamplingSettings
from sadm_ray.diffusion.loss import channel_mean
from sadm_ray.diffusion.noise_schedule import Schedule
from sadm_ray.diffusion.parameterization import diffuse, to_x
from sadm_ray.diffusion.samplers import SeededNoise, integrate
from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.denoiser import Denoiser
from sadm_ray.model.displacement_field import warp
from sadm_ray.model.encoded_sequence import TargetContext
from sadm_ray.model.layers import Convolution, PatchSize, Stage, depth_to_space, group_norm, space_to_depth, zeroed
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.model.single_frame_conditioner import SingleFrameConditioner

DEFORMATION_WEIGHT, SMOOTHNESS_WEIGHT = 20.0, 1.0
"""Of the similarity (beside a diffusion loss of weight 1), and of the smoothness in it."""
WINDOW = 9
"""Voxels along an axis over which correlation is local."""


class Deformation(nn.Module):
    """(source, code) → displacements in voxels. A code of zeros moves nothing."""

    def __init__(self, channels: int, patch: PatchSize, width: int, blocks: int) -> None:
        super().__init__()
        self.patch, voxels = patch, math.prod(patch)
        self.enter = Convolution(2 * channels * voxels, width)
        self.stage = Stage(width, width, blocks)
        self.leave = nn.Sequential(group_norm(width), nn.SiLU(), zeroed(nn.Conv3d(width, 3 * voxels, 1)))

    def forward(
        self, source: Float[Tensor, "b c d h w"], code: Float[Tensor, "b c d h w"]
    ) -> Float[Tensor, "b 3 d h w"]:
        moved, still = (self._raw(source, each) for each in (code, torch.zeros_like(code)))
        return depth_to_space(moved - still, self.patch)

    def _raw(self, source: Tensor, code: Tensor) -> Tensor:
        both = torch.cat([source, code], dim=1)
        return self.leave(self.stage(self.enter(space_to_depth(both, self.patch))))


class DeformableDiffusion(SequenceModel):
    """The diffusion module estimates ε̂ from the source and the perturbed target; ε̂ is the code of the deformation.

    The code is scaled by how far in time the target is from the source, in training too, as that work interpolates
    between frames.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        settings, diffusion, channels = config.model.denoiser, config.diffusion, config.channels
        self.conditioner = SingleFrameConditioner(config.model.conditioner, channels, settings.patch)
        self.denoiser = Denoiser(settings, channels, self.conditioner.layout.width)
        self.deformation = Deformation(channels, settings.patch, settings.widths[0], settings.blocks)
        self.schedule = Schedule(diffusion.schedule, diffusion.log_snr_min, diffusion.log_snr_max, diffusion.shift)

    def networks(self) -> Sequence[nn.Module]:
        return [self.denoiser, self.deformation]

    def loss(
        self, context: TargetContext, volume: Tensor, t: Tensor, eps: Tensor, counted: Tensor | None = None
    ) -> Float[Tensor, " b"]:
        log_snr = self.schedule.log_snr(t)
        z = diffuse(self.target.encode(volume, context.reference), eps, log_snr)
        code = self._code(z, log_snr, context)
        field = self._field(code, context)
        moved = warp(context.reference.float(), field)
        likeness = SMOOTHNESS_WEIGHT * roughness(field) - local_correlation(moved, volume.float(), counted)
        return channel_mean((code - eps).square(), counted) + DEFORMATION_WEIGHT * likeness

    def draw(
        self, context: TargetContext, noise: SeededNoise, sampling: SamplingSettings
    ) -> Float[Tensor, "b c D H W"]:
        def denoise(z: Tensor, log_snr: float) -> Tensor:
            levels = torch.full((len(z),), log_snr, device=z.device)
            return to_x(self._code(z, levels, context), "eps", z, levels).clamp(-1.0, 1.0)

        nodes = self.schedule.steps(sampling.num_steps, sampling.spacing)
        z = noise(context.reference.shape[1:])
        z = integrate(denoise, nodes[:-1], z, noise, sampler=sampling.sampler, stochasticity=sampling.stochasticity)
        code = self._code(z, torch.full((len(z),), nodes[-2], device=z.device), context)
        return warp(context.reference.float(), self._field(code, context))

    def network_calls(self, sampling: SamplingSettings) -> int:
        return sampling.num_steps

    def _code(self, z: Tensor, log_snr: Float[Tensor, " b"], context: TargetContext) -> Float[Tensor, "b c D H W"]:
        return self.denoiser(z, log_snr, context.condition).float()

    def _field(self, code: Tensor, context: TargetContext) -> Float[Tensor, "b 3 D H W"]:
        scaled = context.gap[:, None, None, None, None] * code
        return self.deformation(2.0 * context.reference - 1.0, scaled).float()


def roughness(field: Float[Tensor, "b 3 d h w"]) -> Float[Tensor, " b"]:
    """The mean square of the field's first differences, of each sample."""
    steps = [field.diff(dim=axis).square().flatten(1).mean(dim=1) for axis in (2, 3, 4) if field.shape[axis] > 1]
    return torch.stack(steps).mean(dim=0) if steps else field.new_zeros(len(field))


def local_correlation(
    one: Float[Tensor, "b c d h w"], other: Float[Tensor, "b c d h w"], counted: Bool[Tensor, "b c"] | None = None
) -> Float[Tensor, " b"]:
    """The squared normalised cross-correlation in windows, averaged over each sample; 1 for volumes that are alike.

    Args:
        counted: as in `loss.channel_mean`.
    """

    window = [min(WINDOW, size - (size + 1) % 2) for size in one.shape[-3:]]  # odd, and no larger than the volume
    border = [size // 2 for size in window]

    def mean(volume: Tensor) -> Tensor:
        return F.avg_pool3d(volume, window, stride=1, padding=border, count_include_pad=False)

    mean_one, mean_other = mean(one), mean(other)
    cross = mean(one * other) - mean_one * mean_other
    variance_one = (mean(one.square()) - mean_one.square()).clamp(min=0.0)
    variance_other = (mean(other.square()) - mean_other.square()).clamp(min=0.0)
    return channel_mean(cross.square() / (variance_one * variance_other + 1e-5), counted)
