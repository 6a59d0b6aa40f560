"""Settings of training."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sadm_ray.config.base import Fraction, Positive, Precision, Section
from sadm_ray.config.data_settings import Location


class AugmentSettings(Section):
    """Changes that leave anatomy plausible, the same for all frames of a sequence: all off by default.

    `flip`: how often each axis (d h w) is mirrored. `shift`: up to this fraction of each axis, the border repeated.
    `turn`: up to so many degrees within slices (h w), either way, and `zoom`: larger or smaller by up to this fraction
    there; both interpolate. `gain` and `offset`: intensities times 1 ± gain, plus ± offset.
    """

    flip: tuple[Fraction, Fraction, Fraction] = (0.0, 0.0, 0.0)
    shift: tuple[Fraction, Fraction, Fraction] = (0.0, 0.0, 0.0)
    turn: Annotated[float, Field(ge=0, le=180)] = 0.0
    zoom: Fraction = 0.0
    gain: Fraction = 0.0
    offset: Fraction = 0.0


class ValidationSettings(Section):
    """Validation beside training, with the averaged weights, on the first `subjects` of the validation split.

    The denoising loss at fixed noise levels is cheap; generating frames and scoring them beside copy-last is not. Both
    are also done after the last step. 0 steps: never. `patience`: training stops when so many validations in a row have
    not bettered `stop_on`, and the best weights are taken.
    """

    loss_every: Annotated[int, Field(ge=0)] = 100
    generate_every: Annotated[int, Field(ge=0)] = 400
    subjects: Positive = 4
    patience: Positive | None = None
    stop_on: Literal["loss", "psnr"] = "loss"


class TrainSettings(Section):
    """How the model is trained. `batch_size` and `subjects_in_memory` are over all workers together.

    With `min_workers`, training goes on with as many workers as there is room for, from `min_workers` to `workers`.
    `start_from`, the folder or URL of a trained model, gives the initial weights where names and shapes agree.
    `seed` is that of the other initial weights and of what each step draws (none: the run's, which also decides the
    split).
    `chosen_on` is written by a sweep of training settings: the fingerprints of the validation subjects on which they
    were chosen. They never count as test subjects of a model that is trained with these settings.
    """

    start_from: Location | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    steps: Positive = 400
    batch_size: Positive = 16
    micro_batch: Positive | None = None  # samples that a worker takes at a time; none: all of its share
    on_out_of_memory: Literal["stop", "halve"] = "stop"  # halve: the micro-batch, until it fits
    optimizer: Literal["muon", "adamw"] = "muon"
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    spike_factor: Annotated[float, Field(gt=1)] | None = 20.0  # a gradient so many times the usual one is not used
    max_bad_steps: Positive = 10  # in a row, with NaN, infinite or far too large gradients
    ema_decays: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field(default=(0.99,), min_length=1)
    condition_dropout: Fraction = 0.1
    imputation: Fraction = 0.5  # how often later frames are observed too
    single_frame: Fraction = 0.2  # how often only the first frame is observed, or only the first and the last
    subjects_in_memory: Positive = 64  # the pool from which batches are drawn
    targets_per_subject: Positive = 50  # drawn from a subject each time it is read
    augment: AugmentSettings = AugmentSettings()
    workers: Positive = 2
    min_workers: Positive | None = None
    parallel: Literal["ddp", "fsdp"] = "ddp"
    device: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Precision = "float32"
    compile: bool = False  # the denoiser, by torch.compile
    recompute_activations: bool = False  # in the backward pass: less memory, more time
    validation: ValidationSettings = ValidationSettings()
    storage: Location | None = None  # where checkpoints are kept, a folder or URL; none: in the run's folder
    checkpoint_every: Positive = 200
    keep_checkpoints: Positive = 2
    log_every: Positive = 20
    max_failures: Annotated[int, Field(ge=-1)] = 8  # of workers and nodes, before the run gives up; -1: never
    chosen_on: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.workers > self.batch_size:
            raise ValueError(f"{self.workers} workers cannot share batch_size {self.batch_size}")
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers, {self.min_workers}, is more than workers, {self.workers}")
        if len(set(self.ema_decays)) < len(self.ema_decays):
            raise ValueError("ema_decays names one twice")
        checked = self.validation
        if checked.patience and not (checked.loss_every if checked.stop_on == "loss" else checked.generate_every):
            every = "loss_every" if checked.stop_on == "loss" else "generate_every"
            raise ValueError(f"validation.patience without validation.{every} has nothing to stop on")
        return self
