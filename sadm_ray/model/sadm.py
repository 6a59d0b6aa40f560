"""SADM: conditioner and denoiser composed with the diffusion process (Yoon et al., IPMI 2023)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from jaxtyping import Bool, Float
from pydantic import Field, ValidationError, model_validator
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.nn import functional

from sadm_ray.config import (
    DiffusionSettings,
    ModelSettings,
    Precision,
    SamplingSettings,
    Section,
    Shape,
    check_prediction,
)
from sadm_ray.diffusion.guidance import EVERYWHERE, guide
from sadm_ray.diffusion.objective import loss_weight, velocity_loss
from sadm_ray.diffusion.posterior import gaussian_v
from sadm_ray.diffusion.prediction import diffuse, to_v, to_x
from sadm_ray.diffusion.rollout import rollout_order
from sadm_ray.diffusion.samplers import SeededNoise, sample
from sadm_ray.diffusion.schedule import Schedule
from sadm_ray.diffusion.target import Target, nearest_observed
from sadm_ray.errors import DataError
from sadm_ray.model.conditioner import Conditioner
from sadm_ray.model.context import Context
from sadm_ray.model.denoiser import Denoiser
from sadm_ray.model.layers import Stage
from sadm_ray.model.motion import warp
from sadm_ray.model.precision import autocast

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def ema_name(decay: float) -> str:
    """What the average with this decay is called, in files and in logs."""
    return f"ema-{decay:g}"


class SadmConfig(Section):
    """What a model is, apart from its weights: stored beside them as `config.json`.

    `preparation` is the digest of how the volumes were prepared that it was trained on; other ones it cannot judge.
    `prepared` are the settings of that (of `data`) and `time_unit`, so that others can be prepared the same way.
    """

    shape: Shape
    channels: Annotated[int, Field(gt=0)] = 1
    model: ModelSettings = ModelSettings()
    diffusion: DiffusionSettings = DiffusionSettings()
    preparation: str = ""
    prepared: dict[str, Any] = Field(default_factory=dict)
    time_unit: str = ""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        check_prediction(self.model, self.diffusion)
        return self


class Sadm(nn.Module):
    """The model. `forward` is its training loss, `generate` draws volumes.

    Volumes are in [0, 1]. Frames that are not observed may hold anything, NaN too: they are never read.
    """

    def __init__(self, config: SadmConfig) -> None:
        super().__init__()
        self.config = config
        model, diffusion = config.model, config.diffusion
        self.conditioner = Conditioner(model.conditioner, config.channels, model.denoiser.patch, model.covariates)
        self._has_motion, self._has_variance = model.target == "motion", model.voxel_variance
        outputs = config.channels * (1 + self._has_variance) + 3 * self._has_motion
        self.denoiser = Denoiser(model.denoiser, config.channels, self.conditioner.channels, outputs)
        self.target = Target(model.target, model.difference_scale or 1.0)
        self.schedule = Schedule(diffusion.schedule, diffusion.log_snr_min, diffusion.log_snr_max, diffusion.shift)

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
    ) -> Float[Tensor, " b"]:
        """The training loss of each sample (before averaging). Nothing is drawn here.

        Args:
            t: how far each sample is on the way to noise, in [0, 1].
            eps: the noise, of the size that `noise_size` says.
            unconditional: the samples that train the unconditional model, their condition replaced by the null one.
            covariates, visit_covariates: as in `generate`.
        """
        frames, target = self._padded(frames), self._padded(target)
        features = self.conditioner.encode(frames, observed)
        reference = self._reference(frames, observed, times, target_time)
        condition = self.conditioner(features, observed, times, target_time, reference, covariates, visit_covariates)
        if unconditional is not None:
            condition = torch.where(unconditional[:, None, None, None, None], 0.0, condition)
        x = self.target.encode(target, reference)
        log_snr = self.schedule.log_snr(t)
        z = diffuse(x, eps, log_snr)
        loss = velocity_loss(self._velocity(z, log_snr, condition), x, eps, log_snr)
        process = self.config.diffusion
        return loss * loss_weight(process.weighting, log_snr, process.weighting_parameter)

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
    ) -> Float[Tensor, "b m c d h w"]:
        """Generate the frames at `target_times`, autoregressively, nearest in time first.

        Each frame is encoded once; a generated one joins the observed ones for those that follow.

        Args:
            frames: in [0, 1]; absent ones may hold anything.
            observed: which frames are observed, at least one a sequence.
            times: when each frame was acquired.
            target_times: when the wanted frames are.
            seeds: one a sequence. A sample depends on its own seed, not on its batch-mates.
            sampling: how to draw; none for the defaults.
            covariates: what is known of the subjects, in the order of the settings; a category as the index of its
                level, NaN for what is missing.
            visit_covariates: the same of the visits; a generated frame has none.

        Returns:
            the frames in [0, 1], in the order of `target_times`.

        Raises:
            ValueError: a sequence without observed frames, or volumes of a size that does not fit the patches.

        Example:
            Two subjects of three slots, of which the second lacks one; both are asked for two later times.

            >>> import torch
            >>> from sadm_ray.model.sadm import Sadm, SadmConfig
            >>> model = Sadm(SadmConfig(shape=(4, 16, 16)))  # or Sadm.from_pretrained("runs/phantom/model")
            >>> frames = torch.rand(2, 3, 1, 4, 16, 16)  # b t c d h w
            >>> observed = torch.tensor([[True, True, True], [True, False, True]])
            >>> times = torch.tensor([[0.0, 0.2, 0.5], [0.0, 0.0, 0.4]])
            >>> target_times = torch.tensor([[0.75, 1.0], [0.6, 1.0]])
            >>> model.generate(frames, observed, times, target_times, seeds=[0, 1]).shape
            torch.Size([2, 2, 1, 4, 16, 16])
        """
        sampling = sampling or SamplingSettings()
        context = self.observe(frames, observed, times, covariates, visit_covariates, sampling.precision)
        return self.roll_out(context, target_times, seeds, sampling)

    @torch.no_grad()
    def observe(
        self,
        frames: Float[Tensor, "b t c d h w"],
        observed: Bool[Tensor, "b t"],
        times: Float[Tensor, "b t"],
        covariates: Float[Tensor, "b n"] | None = None,
        visit_covariates: Float[Tensor, "b t m"] | None = None,
        precision: Precision = "float32",
    ) -> Context:
        """Encode the observed frames, for all that is asked of these sequences. Arguments and errors: `generate`."""
        if not observed.any(dim=1).all():
            raise ValueError("every sequence needs at least one observed frame")
        padded = self._padded(frames)
        with autocast(frames.device, precision):
            features = self.conditioner.encode(padded, observed)
        return Context(padded, features, observed, times, covariates, visit_covariates, tuple(frames.shape[-3:]))

    @torch.no_grad()
    def roll_out(
        self,
        context: Context,
        target_times: Float[Tensor, "b m"],
        seeds: Sequence[int],
        sampling: SamplingSettings,
    ) -> Float[Tensor, "bs m c d h w"]:
        """The frames at `target_times` of the sequences in `context`, as `generate` does.

        Args:
            seeds: as many a sequence as samples are wanted of it, those of the first sequence first; what does not
                depend on the sample is computed once.
        """
        samples, left = divmod(len(seeds), len(target_times))
        if left or not samples:
            raise ValueError(f"{len(seeds)} seeds cannot be shared by {len(target_times)} sequences")
        orders = [
            rollout_order(row[seen].tolist(), wanted.tolist())
            for row, seen, wanted in zip(context.times, context.observed, target_times, strict=True)
        ]
        order = torch.tensor(orders, device=target_times.device)
        noise = SeededNoise(seeds, target_times.device)
        with autocast(target_times.device, sampling.precision):
            generated = self._rollout(context, target_times.gather(1, order), samples, noise, sampling)
        d, h, w = context.size
        places = order.argsort(dim=1).repeat_interleave(samples, dim=0)
        rows = torch.arange(len(seeds), device=order.device)[:, None]
        return generated[rows, places][..., :d, :h, :w]

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
        """Write `config.json` and `model.safetensors` into `folder`, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(self.config.model_dump_json(indent=2) + "\n", encoding="utf-8")
        save_model(self, str(folder / WEIGHTS))

    @classmethod
    def from_pretrained(cls, folder: Path | str, device: torch.device | str = "cpu", ema: float | None = None) -> Self:
        """Read what `save_pretrained` wrote.

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
            config = SadmConfig.model_validate_json((folder / CONFIG).read_text(encoding="utf-8"))
            model = cls(config)
            load_model(model, str(weights))
        except FileNotFoundError as error:
            raise DataError(f"{folder}: no trained model here ({error.filename} is missing); train one first") from None
        except (ValidationError, json.JSONDecodeError) as error:
            raise DataError(f"{folder / CONFIG}: not a model's config ({str(error).splitlines()[0]})") from None
        except Exception as error:  # safetensors raises its own bare exception type
            raise DataError(f"{weights}: cannot be read ({str(error).splitlines()[0]})") from None
        return model.to(device).eval()

    def describe(self) -> dict[str, Any]:
        """Facts of the model for tracking and the report."""
        return {
            "parameters": sum(p.numel() for p in self.parameters()),
            "conditioner_parameters": sum(p.numel() for p in self.conditioner.parameters()),
            "denoiser_parameters": sum(p.numel() for p in self.denoiser.parameters()),
        }

    def _rollout(
        self,
        context: Context,
        target_times: Float[Tensor, "b m"],
        samples: int,
        noise: SeededNoise,
        sampling: SamplingSettings,
    ) -> Float[Tensor, "bs m c d h w"]:
        """The targets in the order in which they stand; each is encoded and appended to what is known."""
        generated: list[Tensor] = []
        for turn in range(target_times.shape[1]):
            target_time = target_times[:, turn]
            reference = self._reference(context.frames, context.observed, context.times, target_time)
            condition = self.conditioner(
                context.features,
                context.observed,
                context.times,
                target_time,
                reference,
                context.covariates,
                context.visit_covariates,
            )
            if not generated:  # the samples have been one until here
                condition, reference = (each.repeat_interleave(samples, dim=0) for each in (condition, reference))
                target_times = target_times.repeat_interleave(samples, dim=0)
            drawn = self._sample(condition, noise, reference.shape[1:], sampling)
            frame = self.target.decode(drawn, reference).clamp(0.0, 1.0)
            if turn + 1 < target_times.shape[1]:
                context = context if generated else context.repeated(samples)
                present = context.observed.new_ones(len(frame), 1)
                features = self.conditioner.encode(frame[:, None], present)
                context = context.appended(frame, features, target_times[:, turn])
            generated.append(frame)
        return torch.stack(generated, dim=1)

    def _sample(
        self, condition: Tensor, noise: SeededNoise, shape: torch.Size, sampling: SamplingSettings
    ) -> Float[Tensor, "b c d h w"]:
        denoise = guide(
            self._denoise,
            condition,
            torch.zeros_like(condition),
            sampling.guidance_scale,
            sampling.guidance_interval or EVERYWHERE,
            split=sampling.guidance_split,
        )
        return sample(
            denoise,
            self.schedule.steps(sampling.num_steps, sampling.spacing),
            noise,
            shape,
            sampler=sampling.sampler,
            stochasticity=sampling.stochasticity,
        )

    def _padded(self, volumes: Float[Tensor, "... d h w"]) -> Float[Tensor, "... D H W"]:
        """Volumes of a size that the patches divide, the border voxels repeated behind them where it takes that."""
        missing = [-size % patch for size, patch in zip(volumes.shape[-3:], self.config.model.patch, strict=True)]
        if not any(missing):
            return volumes
        if not self.config.model.pad:
            raise ValueError(
                f"volumes of {tuple(volumes.shape[-3:])} (d h w) are not divided by the model's patch "
                f"{self.config.model.patch}; resize them, or set model.pad=true"
            )
        d, h, w = missing
        flat = functional.pad(volumes.flatten(0, -5), (0, w, 0, h, 0, d), mode="replicate")
        return flat.reshape(*volumes.shape[:-3], *flat.shape[-3:])

    def _velocity(self, z: Tensor, log_snr: Tensor, condition: Tensor) -> Float[Tensor, "b c d h w"]:
        said = self.denoiser(z, log_snr, condition).float()
        kind = self.config.diffusion.prediction
        if kind != "v":
            return to_v(said, kind, z, log_snr)
        sizes = [self.config.channels * part for part in (1, self._has_variance)] + [3 * self._has_motion]
        v_net, log_variance, field = said.split(sizes, dim=1)
        mean: Tensor | float = 0.0
        if self._has_motion:
            reference = self.conditioner.reference(condition).float()
            mean = (warp(reference, field) - reference) / self.target.scale
        return gaussian_v(v_net, mean, log_variance if self._has_variance else None, z, log_snr)

    def _denoise(self, z: Tensor, log_snr: float, condition: Tensor) -> Tensor:
        levels = torch.full((len(z),), log_snr, device=z.device)
        return to_x(self._velocity(z, levels, condition), "v", z, levels)

    @staticmethod
    def _reference(frames: Tensor, observed: Tensor, times: Tensor, target_time: Tensor) -> Tensor:
        nearest = nearest_observed(observed, times, target_time)
        return frames[torch.arange(len(frames), device=frames.device), nearest]
