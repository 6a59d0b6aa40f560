"""From shards to batches: pools of whole subjects, from which batches are drawn many times.

Reading a subject costs far more than drawing a target from it. So a worker holds a pool of subjects in memory, draws
from each `targets_per_subject` times, and Ray Data reads the next pool meanwhile. Who is in which pool and batch
follows from the seed and the step alone: a run that is resumed sees the subjects in the order in which it would have
seen them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import torch
from jaxtyping import Int

from sadm_ray.config import CovariateSettings, TrainSettings
from sadm_ray.data.batch import Sequences, stack
from sadm_ray.data.rows import parse_row
from sadm_ray.data.study import Study, rows_of
from sadm_ray.train.step import Batch, step_seed


@dataclass(frozen=True)
class Pool:
    """The subjects that a worker holds at a time, and how many batches are drawn from them.

    `epoch` counts the passes through all subjects, `number` the pools of the run.
    """

    epoch: int
    number: int
    subjects: tuple[str, ...]
    batches: int


def pools(subjects: Sequence[str], settings: TrainSettings, seed: int, rank: int, world: int) -> Iterator[Pool]:
    """The pools of one worker, endlessly.

    Each epoch is a shuffle of all subjects, cut into the pools of all workers together; everybody is in one of them,
    once. All workers draw equally many batches from theirs.
    """
    number = count()
    together = settings.subjects_in_memory * world
    for epoch in count():
        order = np.random.default_rng([seed, epoch]).permutation(len(subjects))
        for start in range(0, len(order), together):
            shared = order[start : start + together]
            mine = shared[rank::world] if len(shared) >= world else shared[[rank % len(shared)]]
            drawn = max(len(shared) * settings.targets_per_subject // settings.batch_size, 1)
            yield Pool(epoch, next(number), tuple(subjects[place] for place in mine), drawn)


def draw_order(subjects: int, batches: int, batch: int, seed: int) -> Int[np.ndarray, "batches batch"]:
    """Which subjects of a pool make up each batch: shuffles of the pool one after another, cut into batches."""
    random = np.random.default_rng(seed)
    order = np.concatenate([random.permutation(subjects) for _ in range(-(-batches * batch // subjects))])
    return order[: batches * batch].reshape(batches, batch)


@dataclass(frozen=True)
class Feed:
    """The batches of one worker of `world`, from the step that it stands at to the last."""

    study: Study
    settings: TrainSettings
    covariates: tuple[CovariateSettings, ...]
    seed: int
    rank: int
    world: int
    device: torch.device

    def batches(self, done: int) -> Iterator[Batch]:
        """The batches of the steps from `done` on."""
        return islice(self._batches(done), max(self.settings.steps - done, 0))

    def _batches(self, done: int) -> Iterator[Batch]:
        wanted, skipped = _remaining(self._pools(), done, self.settings.steps)
        for pool, sequences in zip(wanted, self._read(wanted), strict=True):
            order = draw_order(
                len(pool.subjects),
                pool.batches,
                self.settings.batch_size // self.world,
                step_seed(self.seed, pool.number, self.rank),
            )
            for chosen in order[skipped:]:
                yield self._batch(sequences, chosen)
            skipped = 0

    def _pools(self) -> Iterator[Pool]:
        return pools(self.study.names("train"), self.settings, self.seed, self.rank, self.world)

    def _read(self, wanted: Sequence[Pool]) -> Iterator[Sequences]:
        """One Ray Data execution for the rest of the run, which reads a pool or two ahead."""
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        options = context.execution_options
        options.preserve_order = True
        if wanted:  # else it reads as far ahead as the object store has room, which all workers share
            pool_bytes = max(len(pool.subjects) for pool in wanted) * self._row_bytes()
            options.resource_limits = options.resource_limits.copy(object_store_memory=2 * pool_bytes + (64 << 20))
        subjects = [name for pool in wanted for name in pool.subjects]
        rows = iter(rows_of(self.study, subjects, blocks=len(wanted), cpus=0.5).iter_rows())
        for pool in wanted:
            yield stack([parse_row(row) for row in islice(rows, len(pool.subjects))], self.covariates)

    def _row_bytes(self) -> int:
        """About what a subject takes as it is stored; of a study that keeps all visits, with sixteen of them."""
        d, h, w = self.study.shape
        return (self.study.frames or 16) * d * h * w * 2

    def _batch(self, sequences: Sequences, chosen: np.ndarray) -> Batch:
        def on_device(array: np.ndarray) -> torch.Tensor:
            taken = torch.from_numpy(array[chosen])
            if self.device.type == "cuda":
                taken = taken.pin_memory()
            return taken.to(self.device, non_blocking=True)

        return Batch(
            on_device(sequences.frames),
            on_device(sequences.present),
            on_device(sequences.times),
            None if sequences.covariates is None else on_device(sequences.covariates),
            None if sequences.visit_covariates is None else on_device(sequences.visit_covariates),
        )


def _remaining(every: Iterator[Pool], done: int, steps: int) -> tuple[list[Pool], int]:
    """The pools that the steps from `done` to `steps` are drawn from, and how many batches of the first are done."""
    wanted: list[Pool] = []
    begin = skipped = 0
    while begin < steps:
        pool = next(every)
        if begin + pool.batches > done:
            skipped = max(done - begin, 0) if not wanted else skipped
            wanted.append(pool)
        begin += pool.batches
    return wanted, skipped
