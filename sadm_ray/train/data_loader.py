"""From shards to batches: pools of whole subjects, from which batches are drawn many times.

Reading a subject costs far more than drawing a target from it. So workers hold a pool of subjects in memory and draw
from each `targets_per_subject` times, while Ray Data reads the next pool.

Every position in the batch has subjects of its own in each pool, and a worker reads only those of its positions. Which
subject is where follows from the seed and the step alone: a resumed run, also with more or fewer workers, sees the same
batches as one that was not stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import torch
from jaxtyping import Int

from sadm_ray.config import CovariateSettings, TrainSettings
from sadm_ray.data.load.collate import SequenceBatch, collate
from sadm_ray.data.shards.prepared_study import Study, rows_of
from sadm_ray.data.shards.subject_row import parse_row
from sadm_ray.train.train_step import Batch

_READ_BYTES = 32 << 20
"""Read at a time where pools are small, since every Ray Data execution takes a tenth of a second to start."""


@dataclass(frozen=True)
class Pool:
    """The subjects in the memory of all workers, by position in the batch, and how many batches are drawn from them."""

    number: int
    subjects: tuple[tuple[str, ...], ...]
    batches: int


def pools(subjects: Sequence[str], settings: TrainSettings, seed: int) -> Iterator[Pool]:
    """The endless pools of a run: one shuffle of all subjects after another, cut into pools of equal size."""
    each = _subjects_per_position(settings)
    stream = _shuffles(subjects, seed)
    for number in count():
        drawn = list(islice(stream, each * settings.batch_size))
        by_position = tuple(tuple(drawn[position :: settings.batch_size]) for position in range(settings.batch_size))
        yield Pool(number, by_position, each * settings.targets_per_subject)


def draw_order(subjects: int, batches: int, seed: Sequence[int]) -> Int[np.ndarray, " batches"]:
    """Which of its subjects a position gives to each batch: one shuffle of them after another."""
    rng = np.random.default_rng(seed)
    shuffles = [rng.permutation(subjects) for _ in range(-(-batches // subjects))]
    return np.concatenate(shuffles)[:batches]


def batch_positions(rank: int, world: int, batch: int) -> range:
    """The positions in the batch of one worker; workers differ by one at most."""
    return range(rank * batch // world, (rank + 1) * batch // world)


def epochs(step: int, subjects: int, settings: TrainSettings) -> tuple[int, int]:
    """The epochs that were started by this step, and the number of subjects read."""
    each = _subjects_per_position(settings)
    read = -(-step // (each * settings.targets_per_subject)) * each * settings.batch_size
    return -(-read // subjects), read


@dataclass(frozen=True)
class LoadedBatch:
    """A batch, and the subjects of its sequences."""

    batch: Batch
    subjects: tuple[str, ...]


@dataclass(frozen=True)
class SequenceLoader:
    """Loads the batches of one worker; `positions` are its positions in the whole batch."""

    study: Study
    settings: TrainSettings
    covariates: tuple[CovariateSettings, ...]
    seed: int
    positions: range
    device: torch.device

    def batches(self, first_step: int) -> Iterator[LoadedBatch]:
        """The batches from step `first_step` to the last."""
        return islice(self._batches(first_step), max(self.settings.steps - first_step, 0))

    def _batches(self, first_step: int) -> Iterator[LoadedBatch]:
        needed, skip = self._remaining(first_step)
        for pool, sequences in zip(needed, self._read(needed), strict=True):
            each = len(pool.subjects[0])
            order = [draw_order(each, pool.batches, [self.seed, pool.number, position]) for position in self.positions]
            firsts = np.arange(len(self.positions)) * each
            for chosen in (firsts + np.stack(order, axis=1))[skip:]:
                yield self._batch(sequences, chosen)
            skip = 0

    def _remaining(self, first_step: int) -> tuple[list[Pool], int]:
        """The pools of the steps from `first_step` on, and how many batches of the first pool to skip."""
        all_pools = pools(self.study.names("train"), self.settings, self.seed)
        each = _subjects_per_position(self.settings) * self.settings.targets_per_subject
        return list(islice(all_pools, first_step // each, -(-self.settings.steps // each))), first_step % each

    def _read(self, needed: Sequence[Pool]) -> Iterator[SequenceBatch]:
        """The sequences of each pool: one Ray Data execution after another, the next while batches are drawn.

        A single execution for the whole run would wait for its reader nearly all the time, and Ray Data 2.60 waits by
        polling: that held Python's lock for so long that steps took up to twice their time.
        """
        names_by_pool = [[name for position in self.positions for name in pool.subjects[position]] for pool in needed]
        has_names = names_by_pool and names_by_pool[0]
        at_once = max(_READ_BYTES // (len(names_by_pool[0]) * self.study.row_bytes), 1) if has_names else 1
        parts = [names_by_pool[start : start + at_once] for start in range(0, len(names_by_pool), at_once)]
        pending: Future[list[SequenceBatch]] | None = None
        with ThreadPoolExecutor(1, "read-ahead") as reader:
            for part in [*parts, None]:
                ready, pending = pending, None if part is None else reader.submit(self._read_some, part)
                if ready is not None:
                    yield from ready.result()

    def _read_some(self, pools_of_names: Sequence[Sequence[str]]) -> list[SequenceBatch]:
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        subjects = [name for names in pools_of_names for name in names]
        rows = map(parse_row, rows_of(self.study, subjects).iter_rows())
        return [collate(list(islice(rows, len(names))), self.covariates) for names in pools_of_names]

    def _batch(self, sequences: SequenceBatch, chosen: np.ndarray) -> LoadedBatch:
        def on_device(array: np.ndarray) -> torch.Tensor:
            taken = torch.from_numpy(array[chosen])
            if self.device.type == "cuda":
                taken = taken.pin_memory()
            return taken.to(self.device, non_blocking=True)

        batch = Batch(
            on_device(sequences.frames),
            on_device(sequences.present),
            on_device(sequences.times),
            None if sequences.covariates is None else on_device(sequences.covariates),
            None if sequences.visit_covariates is None else on_device(sequences.visit_covariates),
            None if sequences.has_channel is None else on_device(sequences.has_channel),
            None if sequences.planned is None else on_device(sequences.planned),
        )
        return LoadedBatch(batch, tuple(sequences.subjects[row] for row in chosen))


def _subjects_per_position(settings: TrainSettings) -> int:
    return max(settings.subjects_in_memory // settings.batch_size, 1)


def _shuffles(subjects: Sequence[str], seed: int) -> Iterator[str]:
    for epoch in count():
        for index in np.random.default_rng([seed, epoch]).permutation(len(subjects)):
            yield subjects[index]
