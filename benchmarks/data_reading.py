"""How long a training step waits for its batch and what reading costs it: the training of `configs/acdc_small.yaml`.

42 subjects, as many as train there, of 12 frames of 8 × 64 × 64; one worker that computes with one thread. Waiting is
all time in `next(batches)`, drawing the batch from the pool included. The pools are measured around a boundary: the
steps of the small ones cross several, those of the default ones begin shortly before their first, which a real run
meets once in 131 steps. The first batch, for which Ray Data starts, is a figure of its own. The baseline of the speed
are steps on a batch in memory, after reading has ended.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from torch.nn.utils import convert_conv3d_weight_memory_format

from benchmarks.figures import say
from sadm_ray.cluster import ray_session
from sadm_ray.config import Settings
from sadm_ray.config.settings_file import load_settings
from sadm_ray.data.load.rng import SampleRng
from sadm_ray.data.phantom import write_phantom
from sadm_ray.data.shards.prepare import prepare_study
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.model.registry import build_model
from sadm_ray.train.data_loader import SequenceLoader, pools
from sadm_ray.train.gradient_guard import GradientGuard
from sadm_ray.train.train_state import TrainState
from sadm_ray.train.train_step import train_step

CONFIG = Path(__file__).parents[1] / "configs" / "acdc_small.yaml"
_SUBJECTS = 42
_WARM_UP, _MEASURED, _ALONE = 5, 40, 10
_SMALL = {"subjects_in_memory": 16, "targets_per_subject": 8}
"""A boundary every 5 to 8 steps."""
_CASES: tuple[tuple[str, dict[str, int], str], ...] = (
    ("float32", _SMALL, "small pools"),
    ("auto", _SMALL, "small pools"),
    ("auto", {}, "the default pools"),
)


def reading() -> None:
    """The share of waiting for small pools and for the default ones, in float32 and in the machine's best precision."""
    torch.set_num_threads(1)
    phantom = [f"phantom.subjects={_SUBJECTS}", "phantom.shape=[8, 64, 64]"]
    all_train = ["data.split={method: balanced, val: 0, test: 0}"]
    settings = load_settings(CONFIG, [*phantom, *all_train, "train.workers=1", "ray.address=local"])
    with tempfile.TemporaryDirectory() as folder, ray_session(settings):
        root = Path(folder, "study")
        write_phantom(root, settings.phantom, settings.seed)
        study = prepare_study(settings, str(root), str(Path(folder, "shards")))
        for precision, pool, name in _CASES:
            train = settings.train.model_copy(update={"precision": precision, **pool})
            _measure(settings.model_copy(update={"train": train}), study, f"{name}, {precision}")


def _measure(settings: Settings, study: Study, name: str) -> None:
    first = next(pools(study.names("train"), settings.train, settings.seed)).batches
    begin = max(first - _WARM_UP - _MEASURED // 2, 0)
    end = begin + _WARM_UP + _MEASURED
    train = settings.train.model_copy(update={"steps": end})
    torch.manual_seed(0)
    device = torch.device("cpu")
    model = build_model(ModelConfig(shape=study.shape, model=settings.model, diffusion=settings.diffusion))
    convert_conv3d_weight_memory_format(model, torch.channels_last_3d)
    train_state, guard, lanes = TrainState(model, train), GradientGuard(train), range(train.batch_size)
    batches = SequenceLoader(study, train, (), settings.seed, lanes, device).batches(begin)
    waited, taken = [], []
    for step in range(begin, end):
        start = time.perf_counter()
        loaded = next(batches)
        loaded_at = time.perf_counter()
        rng = SampleRng(settings.seed, step, lanes, train.batch_size, device)
        train_step(train_state, guard, loaded.batch, rng, train, step)
        waited.append(loaded_at - start)
        taken.append(time.perf_counter() - start)
    del batches  # with which its reading ends
    alone = []
    for step in range(end, end + _ALONE):
        start = time.perf_counter()
        rng = SampleRng(settings.seed, step, lanes, train.batch_size, device)
        train_step(train_state, guard, loaded.batch, rng, train, step)
        alone.append(time.perf_counter() - start)
    counted = slice(_WARM_UP, None)
    say(f"{name}: first batch", waited[0], "s", "lower")
    say(f"{name}: a training step", sum(taken[counted]) / _MEASURED, "s", "lower")
    say(f"{name}: longest wait for a batch", max(waited[counted]), "s", "lower")
    speed = median(alone) / median(taken[counted])
    say(f"{name}: speed of a step beside reading, to one alone", speed, "1", "higher", 0.9)
    share = sum(waited[counted]) / sum(taken[counted])
    say(f"{name}: share of a training step that waits for data", share, "1", "lower", 0.05)
