"""Validation during training: the averaged weights on subjects that are not trained on.

The subjects are divided among the workers. All workers call the same functions and get the same numbers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sadm_ray.config import Settings
from sadm_ray.data.load.collate import collate
from sadm_ray.data.load.rng import SampleRng
from sadm_ray.data.load.target_sampling import draw_target, take
from sadm_ray.data.shards.prepared_study import Study, read_subject
from sadm_ray.evaluate.sampling_quality import average, generate_and_compare, structure_can_be_scored
from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.mixed_precision import autocast
from sadm_ray.train.train_metrics import level_names, sum_over_workers
from sadm_ray.train.train_step import LEVELS

_SEED = 2**31
"""Added to the run's seed, so that no training step has the random draws of validation."""


class Validation:
    """Validates a model on the validation subjects, with the same targets and noise every time."""

    def __init__(self, settings: Settings, study: Study, rank: int, world: int, device: torch.device) -> None:
        names = study.subjects.get("val", ())[: settings.train.validation.subjects]
        self._settings, self._world, self._device = settings, world, device
        self._count, self._positions = len(names), range(rank, len(names), world)
        self._rows = [read_subject(study, names[place]) for place in self._positions]

    def __bool__(self) -> bool:
        """Whether there are validation subjects."""
        return self._count > 0

    @torch.no_grad()
    def losses(self, model: SequenceModel) -> dict[str, float]:
        """The denoising loss: the mean over all noise levels first, then at each level."""
        sums = torch.zeros(LEVELS, device=self._device)
        if self._rows:
            batch = _on_device(self._rows, self._settings, self._device)
            sums = torch.stack([self._losses_at(model, batch, level).sum() for level in range(LEVELS)])
        losses = (sum_over_workers(sums, self._world) / self._count).tolist()
        named = zip(level_names("val_losses"), losses, strict=True)
        return {"val_loss": sum(losses) / LEVELS, **dict(named)}

    def generated(self, model: SequenceModel) -> tuple[dict[str, float], bytes]:
        """PSNR, and with scikit-image SSIM and NRMSE, of generated frames and of copy-last; and a picture.

        The picture (PNG) shows the first subject's first frame. It is empty without matplotlib and on all workers but
        the first.
        """
        settings, structure, scored, picture = self._settings, structure_can_be_scored(), [], b""
        if self._rows:
            for each in generate_and_compare(
                model, self._rows, settings.generate.tasks, settings.sampling, settings.seed
            ):
                scored.append((each.task, each.scores(structure)))
                if not picture and self._positions[0] == 0:
                    with contextlib.suppress(ImportError):
                        from sadm_ray.evaluate.prediction_plots import draw_prediction

                        picture = draw_prediction(each.truth, each.copied, each.generated[None], each.copied_slot)
        if self._world > 1:
            shares: list[Any] = [None] * self._world
            torch.distributed.all_gather_object(shares, scored)
            scored = [each for share in shares for each in share]
        return {f"val_{key}": value for key, value in average(scored).items()}, picture

    def _losses_at(self, model: SequenceModel, batch: Mapping[str, Any], level: int) -> Tensor:
        """The loss of each of this worker's subjects, at one noise level."""
        seed = self._settings.seed + _SEED
        rng = SampleRng(seed, level, self._positions, self._count, self._device)
        train = self._settings.train
        target_draw = draw_target(batch["present"], rng, train.imputation, train.single_frame)
        frames, times = batch["frames"], batch["times"]
        with autocast(self._device, train.precision):
            losses: Tensor = model(
                frames,
                target_draw.observed,
                times,
                take(frames, target_draw.target),
                take(times, target_draw.target),
                torch.full_like(times[:, 0], (level + 0.5) / LEVELS),
                rng.normal("noise", model.noise_size(frames.shape[-3:])),
                None,
                batch["covariates"],
                batch["visit_covariates"],
                batch["has_channel"],
                None if batch["has_channel"] is None else take(batch["has_channel"], target_draw.target),
                None if batch["planned"] is None else take(batch["planned"], target_draw.target),
            )
        return losses


def _on_device(rows: Sequence[Mapping[str, Any]], settings: Settings, device: torch.device) -> dict[str, Any]:
    sequences = collate(rows, settings.model.covariates)
    names = ("frames", "present", "times", "covariates", "visit_covariates", "has_channel", "planned")
    arrays = {name: getattr(sequences, name) for name in names}
    return {name: None if array is None else torch.from_numpy(array).to(device) for name, array in arrays.items()}
