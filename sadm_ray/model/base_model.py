"""What all kinds of models have in common: reading a sequence, rolling out, being saved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from safetensors.torch import save_model
from torch import Tensor, nn

from sadm_ray.config import Precision, SamplingSettings
from sadm_ray.diffusion.reference_frames import ReferenceFrames
from sadm_ray.diffusion.residual import Residual
from sadm_ray.diffusion.rollout import rollout_order
from sadm_ray.diffusion.samplers import SeededNoise
from sadm_ray.model.conditioner import Conditioner
from sadm_ray.model.encoded_sequence import EncodedSequences, TargetContext
from sadm_ray.model.frame_blending import FrameBlending
from sadm_ray.model.input_volumes import padded_to, without_absent_channels
from sadm_ray.model.layers import Stage
from sadm_ray.model.mixed_precision import autocast
from sadm_ray.model.model_config import CONFIG, ModelConfig
from sadm_ray.model.prior import PriorNetwork
from sadm_ray.model.prior_samples import SpreadNetwork
from sadm_ray.model.recalibration import NOT_CALIBRATED
from sadm_ray.model.registration import RegisteredPairs
from sadm_ray.model.sequence_rollout import Follow, rolled_out
from sadm_ray.model.single_frame_conditioner import SingleFrameConditioner
from sadm_ray.model.target_references import references_of
from sadm_ray.model.time_warp import TimeWarp, reference_loss

WEIGHTS = "model.safetensors"
DRAWS = range(8)
"""The seeds of the samples whose mean is the estimate of a kind that has no other."""


def ema_name(decay: float) -> str:
    """The name of the average with this decay, in files and in logs."""
    return f"ema-{decay:g}"


class SequenceModel(nn.Module, ABC):
    """A model of scans over time. `forward` is its training loss, `generate` draws volumes.

    Volumes are in [0, 1]. Frames that are not observed may hold anything, NaN too: they are never read. A kind of model
    brings its networks, a `conditioner` among them, its `loss` and how a volume is drawn.
    """

    conditioner: Conditioner | SingleFrameConditioner
    is_guided = False
    """Whether it has an unconditional branch, which some samples of a batch train."""
    is_random = True
    """Whether its samples can differ; with some settings they do not, see `varies`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.target = Residual(config.model.target, config.model.difference_scale or 1.0)
        self.references = 1 if config.model.reference == "nearest" else 2
        is_registered = config.model.reference == "registered"
        self.time_warp = TimeWarp(config.model.conditioner.time_scale) if is_registered else None
        is_blended = is_registered and config.model.frame_blending and config.model.prior is not None
        self.frame_blending = FrameBlending(config.channels) if is_blended else None
        self.prior_network: PriorNetwork | None = None
        self.recalibration = NOT_CALIBRATED

    @property
    def spread(self) -> SpreadNetwork | None:
        """The network that predicts how samples differ from the prior's mean; None without."""
        return None if self.prior_network is None else self.prior_network.spread

    @abstractmethod
    def loss(
        self,
        context: TargetContext,
        volume: Float[Tensor, "b c D H W"],
        t: Float[Tensor, " b"],
        eps: Float[Tensor, "b c D H W"],
        counted: Bool[Tensor, "b c"] | None = None,
    ) -> Float[Tensor, " b"]:
        """The training loss of each sample, of which `volume` is the true target; the rest as in `forward`.

        Args:
            counted: the channels that count (`loss.channel_mean`); in others the target is the reference.
        """

    @abstractmethod
    def draw(
        self, context: TargetContext, noise: SeededNoise, sampling: SamplingSettings
    ) -> Float[Tensor, "b c D H W"]:
        """A volume of each target, before it is clamped to `EncodedSequences.limits`."""

    def estimate(
        self, context: TargetContext, noise: SeededNoise, sampling: SamplingSettings
    ) -> Float[Tensor, "b c D H W"]:
        """The best point prediction of each target, before it is clamped.

        Of a kind that has none of its own it is the mean of `DRAWS` samples, whose noise does not depend on `noise`.
        """
        draws = [SeededNoise([draw] * len(context.gap), context.gap.device, sampling.temperature) for draw in DRAWS]
        samples = [self.draw(context, each, sampling) for each in draws[: len(DRAWS) if self.varies(sampling) else 1]]
        return torch.stack(samples).mean(dim=0)

    def moved_fields(
        self, context: TargetContext, noise: SeededNoise | None, sampling: SamplingSettings
    ) -> Float[Tensor, "b s 3 D H W"] | None:
        """By which displacement fields, in voxels, each sample moves the reference frames; None: it does not move them.

        Args:
            noise: that `draw` had; None: without what samples differ by.
        """
        return None

    @abstractmethod
    def network_calls(self, sampling: SamplingSettings) -> int:
        """How often its network is evaluated to draw one volume."""

    def varies(self, sampling: SamplingSettings) -> bool:
        """Whether two samples drawn with these settings differ."""
        return self.is_random

    @abstractmethod
    def networks(self) -> Sequence[nn.Module]:
        """Those whose shapes are the same at every step, as `torch.compile` needs them: not the conditioner."""

    def forward(
        self,
        frames: Float[Tensor, "b t c d h w"],
        observed: Bool[Tensor, "b t"],
        times: Float[Tensor, "b t"],
        target: Float[Tensor, "b c d h w"],
        target_time: Float[Tensor, " b"],
        t: Float[Tensor, " b"],
        eps: Float[Tensor, "b c D H W"],
        unconditional: Bool[Tensor, " b"] | None = None,
        covariates: Float[Tensor, "b n"] | None = None,
        visit_covariates: Float[Tensor, "b t m"] | None = None,
        has_channel: Bool[Tensor, "b t c"] | None = None,
        target_channels: Bool[Tensor, "b c"] | None = None,
        target_covariates: Float[Tensor, "b v"] | None = None,
    ) -> Float[Tensor, " b"]:
        """The training loss of each sample (before averaging). Nothing is drawn here.

        Of several channels those count that the target has and some observed frame too.

        Args:
            t: how far each sample is on the way to noise, in [0, 1].
            eps: the noise, of the size that `noise_size` says.
            unconditional: the samples that train the unconditional model, their condition replaced by the null one.
            covariates, visit_covariates, has_channel: as in `generate`.
            target_channels: those that the target has; none: all.
            target_covariates: of the target, as those of a visit; NaN where one is missing or not planned.
        """
        frames, has_channel = without_absent_channels(self.padded(frames), has_channel)
        target = self.padded(target)
        features, size = self.conditioner.encode(frames, observed, has_channel), tuple(frames.shape[-3:])
        encoded = EncodedSequences(frames, features, observed, times, covariates, visit_covariates, size, has_channel)
        context = self.context_at(encoded, target_time, target_covariates=target_covariates)
        if unconditional is not None and self.is_guided:
            context = context.without_condition(unconditional)
        counted = encoded.known_channels
        if counted is not None:
            counted = counted if target_channels is None else counted & target_channels
            target = torch.where(counted[..., None, None, None], target, context.reference)
        loss = self.loss(context, target, t, eps, counted)
        return loss if self.time_warp is None else loss + reference_loss(context.reference, target, counted)

    @torch.no_grad()
    def generate(
        self,
        frames: Float[Tensor, "b t c d h w"],
        observed: Bool[Tensor, "b t"],
        times: Float[Tensor, "b t"],
        target_times: Float[Tensor, "b m"],
        seeds: Sequence[int],
        sampling: SamplingSettings | None = None,
        covariates: Float[Tensor, "b n"] | None = None,
        visit_covariates: Float[Tensor, "b t m"] | None = None,
        has_channel: Bool[Tensor, "b t c"] | None = None,
        target_covariates: Float[Tensor, "b m v"] | None = None,
    ) -> Float[Tensor, "b m c d h w"]:
        """Generate the frames at `target_times`, autoregressively, in the order of `rollout_order`.

        Each frame is encoded once; a generated one joins the observed ones for those that follow.

        Args:
            frames: in [0, 1]; absent ones may hold anything.
            observed: which frames are observed, at least one a sequence.
            times: when each frame was acquired; of any precision, the model computes in float32.
            target_times: when the wanted frames are.
            seeds: one a sequence. A sample depends on its own seed, not on its batch-mates.
            sampling: how to draw; none for the defaults.
            covariates: what is known of the subjects, in the order of the settings; a category as the index of its
                level, NaN for what is missing.
            visit_covariates: the same of the visits.
            has_channel: of several channels, which each frame has; the others may hold anything. None: all.
            target_covariates: the same of the wanted visits, where they are planned (`CovariateSettings`), else NaN. A
                generated frame goes on with them. None: nothing is known.

        Returns:
            the frames, in the order of `target_times`: within [0, 1], or the observed ones' range where that is wider.
            A channel that no observed frame has means nothing.

        Raises:
            ValueError: a sequence without observed frames, or volumes of a size that does not fit the patches.

        Example:
            Two subjects of three slots, of which the second lacks one; both get two later times.

            >>> import torch
            >>> from sadm_ray.model.model_config import ModelConfig
            >>> from sadm_ray.model.registry import build_model
            >>> model = build_model(ModelConfig(shape=(4, 16, 16)))  # or load_model("runs/phantom/model")
            >>> frames = torch.rand(2, 3, 1, 4, 16, 16)  # b t c d h w
            >>> observed = torch.tensor([[True, True, True], [True, False, True]])
            >>> times = torch.tensor([[0.0, 0.2, 0.5], [0.0, 0.0, 0.4]])
            >>> target_times = torch.tensor([[0.75, 1.0], [0.6, 1.0]])
            >>> model.generate(frames, observed, times, target_times, seeds=[0, 1]).shape
            torch.Size([2, 2, 1, 4, 16, 16])
        """
        sampling = sampling or SamplingSettings()
        encoded = self.observe(frames, observed, times, covariates, visit_covariates, sampling.precision, has_channel)
        encoded = replace(encoded, target_covariates=target_covariates)
        return self.roll_out(encoded, target_times, seeds, sampling)

    @torch.no_grad()
    def observe(
        self,
        frames: Float[Tensor, "b t c d h w"],
        observed: Bool[Tensor, "b t"],
        times: Float[Tensor, "b t"],
        covariates: Float[Tensor, "b n"] | None = None,
        visit_covariates: Float[Tensor, "b t m"] | None = None,
        precision: Precision = "float32",
        has_channel: Bool[Tensor, "b t c"] | None = None,
    ) -> EncodedSequences:
        """Encode the observed frames once, for all targets of these sequences. Arguments and errors: `generate`."""
        if not observed.any(dim=1).all():
            raise ValueError("every sequence needs at least one observed frame")
        padded, has_channel = without_absent_channels(self.padded(frames), has_channel)
        with autocast(frames.device, precision):
            features = self.conditioner.encode(padded, observed, has_channel)
        known = covariates, visit_covariates, tuple(frames.shape[-3:]), has_channel
        return EncodedSequences(padded, features, observed, times.float(), *known)

    @torch.no_grad()
    def roll_out(
        self,
        encoded: EncodedSequences,
        target_times: Float[Tensor, "b m"],
        seeds: Sequence[int] | None,
        sampling: SamplingSettings,
        follow: Follow | None = None,
    ) -> Float[Tensor, "bs m c d h w"]:
        """The frames at `target_times` of the sequences in `encoded`, as `generate` does.

        Args:
            seeds: one for each sample, equally many for each sequence, those of the first sequence first; what does
                not depend on the sample is computed once. None: the estimates, one for each sequence.
            follow: is told how the reference frames were moved, of a model that moves them (`moved_fields`).
        """
        draw = self.estimate if seeds is None else self.draw
        seeds = range(len(target_times)) if seeds is None else seeds
        if not seeds or len(seeds) % len(target_times):
            raise ValueError(f"{len(seeds)} seeds cannot be shared by {len(target_times)} sequences")
        target_times = target_times.float()
        orders = [
            rollout_order(row[seen].tolist(), wanted.tolist())
            for row, seen, wanted in zip(encoded.times, encoded.observed, target_times, strict=True)
        ]
        with autocast(target_times.device, sampling.precision):
            generated = rolled_out(self, encoded, target_times, torch.tensor(orders), seeds, sampling, draw, follow)
        d, h, w = encoded.size
        return generated[..., :d, :h, :w]

    def noise_size(self, volume: Sequence[int]) -> tuple[int, int, int, int]:
        """The size c d h w of the noise of one volume d h w: the patches may need more voxels than it has."""
        d, h, w = (size + -size % patch for size, patch in zip(volume, self.config.model.patch, strict=True))
        return self.config.channels, d, h, w

    def recompute_activations(self, wanted: bool = True) -> None:
        """Whether training computes activations again rather than keep them: less memory, more time."""
        for module in self.modules():
            if isinstance(module, Stage):
                module.recompute = wanted

    def save_pretrained(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors` into a new `folder`; `pretrained.load_model` reads them."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(self.config.model_dump_json(indent=2) + "\n", encoding="utf-8")
        save_model(self, str(folder / WEIGHTS))

    def describe(self) -> dict[str, int]:
        """Its size: `parameters`, and those of each network."""
        parts = {f"{name}_parameters": _count(network) for name, network in self.named_children()}
        return {"parameters": _count(self), **parts}

    def padded(self, volumes: Float[Tensor, "... d h w"]) -> Float[Tensor, "... D H W"]:
        """Volumes of the size that the networks see."""
        return padded_to(volumes, self.config.model.patch, allowed=self.config.model.pad)

    def _attending(self, references: int) -> Conditioner:
        """The conditioner with attention over the sequence; `references`: how many frames go along."""
        model = self.config.model
        return Conditioner(
            model.conditioner, self.config.channels, model.denoiser.patch, model.covariates, references=references
        )

    def references_at(
        self, encoded: EncodedSequences, target_time: Float[Tensor, " b"], pairs: RegisteredPairs | None = None
    ) -> ReferenceFrames:
        """The reference frames of each target, warped and blended where the model has these networks."""
        return references_of(encoded, target_time, self.references, self.time_warp, self.frame_blending, pairs)

    def context_at(
        self,
        encoded: EncodedSequences,
        target_time: Float[Tensor, " b"],
        references: ReferenceFrames | None = None,
        target_covariates: Float[Tensor, "b v"] | None = None,
    ) -> TargetContext:
        """What there is to predict a target of each sequence from.

        Args:
            references: of the targets; none: those of the sequences themselves.
            target_covariates: of the targets, as in `forward`.
        """
        references = references or self.references_at(encoded, target_time)
        condition = self.conditioner(
            encoded.features,
            encoded.observed,
            encoded.times,
            target_time,
            references,
            encoded.covariates,
            encoded.visit_covariates,
            target_covariates,
        )
        return TargetContext(condition, references, references.gap / self.config.model.conditioner.time_scale)


def _count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
