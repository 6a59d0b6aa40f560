"""From shards to batches: pools of whole subjects, from which batches are drawn many times.

Reading a subject costs far more than drawing a target from it. So workers hold a pool of subjects in memory, draw from
each `targets_per_subject` times, and Ray Data reads the next pool meanwhile.

Each place in the batch is a lane with subjects of its own in every pool, and a worker reads those of its lanes only.
Who stands where follows from the seed and the step alone: a run that is resumed, also with more or fewer workers, sees
the batches that it would have seen.
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
"""What is read at a time where pools are small: Ray Data takes a tenth of a second to begin."""


@dataclass(frozen=True)
class Pool:
    """The subjects that all workers hold at a time, by lane, and how many batches are drawn from them."""

    number: int
    lanes: tuple[tuple[str, ...], ...]
    batches: int


def pools(subjects: Sequence[str], settings: TrainSettings, seed: int) -> Iterator[Pool]:
    """The pools of a run, endlessly: shuffles of all subjects one after another, cut into pools of one size."""
    each = _subjects_a_lane(settings)
    stream = _shuffles(subjects, seed)
    for number in count():
        drawn = list(islice(stream, each * settings.batch_size))
        lanes = tuple(tuple(drawn[lane :: settings.batch_size]) for lane in range(settings.batch_size))
        yield Pool(number, lanes, each * settings.targets_per_subject)


def draw_order(subjects: int, batches: int, seed: Sequence[int]) -> Int[np.ndarray, " batches"]:
    """Which of its subjects a lane gives to each batch: shuffles of them one after another."""
    random = np.random.default_rng(seed)
    shuffles = [random.permutation(subjects) for _ in range(-(-batches // subjects))]
    return np.concatenate(shuffles)[:batches]


def lanes_of(rank: int, world: int, batch: int) -> range:
    """The lanes of a worker: all workers have equally many, or one more."""
    return range(rank * batch // world, (rank + 1) * batch // world)


def epochs(step: int, subjects: int, settings: TrainSettings) -> tuple[int, int]:
    """How many passes through all subjects were begun with so many steps done, and how many subjects were read."""
    each = _subjects_a_lane(settings)
    read = -(-step // (each * settings.targets_per_subject)) * each * settings.batch_size
    return -(-read // subjects), read


@dataclass(frozen=True)
class LoadedBatch:
    """A batch, and whose sequences are in it."""

    batch: Batch
    subjects: tuple[str, ...]


@dataclass(frozen=True)
class SequenceLoader:
    """The batches of one worker, from the step that it stands at to the last."""

    study: Study
    settings: TrainSettings
    covariates: tuple[CovariateSettings, ...]
    seed: int
    lanes: range
    device: torch.device

    def batches(self, done: int) -> Iterator[LoadedBatch]:
        """The batches of the steps from `done` on."""
        return islice(self._batches(done), max(self.settings.steps - done, 0))

    def _batches(self, done: int) -> Iterator[LoadedBatch]:
        wanted, skipped = self._remaining(done)
        for pool, sequences in zip(wanted, self._read(wanted), strict=True):
            each = len(pool.lanes[0])
            order = [draw_order(each, pool.batches, [self.seed, pool.number, lane]) for lane in self.lanes]
            firsts = np.arange(len(self.lanes)) * each
            for chosen in (firsts + np.stack(order, axis=1))[skipped:]:
                yield self._batch(sequences, chosen)
            skipped = 0

    def _remaining(self, done: int) -> tuple[list[Pool], int]:
        """The pools that the steps from `done` on are drawn from, and how many batches of the first are done."""
        begun = pools(self.study.names("train"), self.settings, self.seed)
        each = _subjects_a_lane(self.settings) * self.settings.targets_per_subject
        return list(islice(begun, done // each, -(-self.settings.steps // each))), done % each

    def _read(self, wanted: Sequence[Pool]) -> Iterator[SequenceBatch]:
        """The sequences of each pool: one Ray Data execution after another, the next while batches are drawn.

        A single execution for the whole run would wait for its reader nearly all the time, and Ray Data 2.60 waits by
        asking again and again: that held Python's lock for so long that steps took up to twice their time.
        """
        mine = [[name for lane in self.lanes for name in pool.lanes[lane]] for pool in wanted]
        at_once = max(_READ_BYTES // (len(mine[0]) * self._row_bytes()), 1) if mine and mine[0] else 1
        parts = [mine[start : start + at_once] for start in range(0, len(mine), at_once)]
        ahead: Future[list[SequenceBatch]] | None = None
        with ThreadPoolExecutor(1, "read-ahead") as reader:
            for part in [*parts, None]:
                ready, ahead = ahead, None if part is None else reader.submit(self._read_some, part)
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

    def _row_bytes(self) -> int:
        """About what a subject takes as it is stored; of a study that keeps all visits, with sixteen of them."""
        d, h, w = self.study.shape
        return (self.study.frames or 16) * d * h * w * 2

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
        )
        return LoadedBatch(batch, tuple(sequences.subjects[place] for place in chosen))


def _subjects_a_lane(settings: TrainSettings) -> int:
    return max(settings.subjects_in_memory // settings.batch_size, 1)


def _shuffles(subjects: Sequence[str], seed: int) -> Iterator[str]:
    for epoch in count():
        for place in np.random.default_rng([seed, epoch]).permutation(len(subjects)):
            yield subjects[place]
