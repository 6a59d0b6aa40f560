"""A batch that does not fit the memory: halved or refused."""

from __future__ import annotations

import pytest
import torch

from sadm_ray.data.load.rng import SampleRng
from sadm_ray.errors import ConfigError
from sadm_ray.train.out_of_memory import find_micro_batch, is_out_of_memory
from tests.train.runs import SETTINGS, Run, batch


def run_with_room_for(samples: int, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose device has room for so many samples at a time."""
    run = Run()
    forward = run.train_state.bare.forward

    def limited(frames, *rest, **named):  # type: ignore[no-untyped-def]
        if len(frames) > samples:
            raise torch.OutOfMemoryError("out of memory")
        return forward(frames, *rest, **named)

    monkeypatch.setattr(run.train_state.bare, "forward", limited)
    return run


def rng() -> SampleRng:
    return SampleRng(0, 0, range(4), 4)


@pytest.mark.parametrize(("room", "taken"), [(4, 4), (3, 2), (2, 2), (1, 1)])
def test_the_micro_batch_is_halved_until_it_fits(room: int, taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run, warnings = run_with_room_for(room, monkeypatch), []
    halving = SETTINGS.model_copy(update={"on_out_of_memory": "halve"})
    samples, flops = find_micro_batch(run.train_state, batch(), rng(), halving, warnings.append)
    assert samples == taken
    assert flops > 1e6
    assert len(warnings) == (taken < 4)
    losses = [run.step(step, samples).losses.mean().item() for step in range(3)]
    assert losses == pytest.approx(Run().steps(0, 3), rel=1e-5), "nothing was learned from trying, and nothing lost"


def test_the_error_names_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_with_room_for(2, monkeypatch)
    with pytest.raises(
        ConfigError, match=r"train\.micro_batch: 4 samples of 4 frames of 4×16×16 .* set train\.micro_batch"
    ):
        find_micro_batch(run.train_state, batch(), rng(), SETTINGS)
    halving = SETTINGS.model_copy(update={"on_out_of_memory": "halve"})
    with pytest.raises(ConfigError, match=r"1 samples of 4 frames .*recompute_activations"):
        find_micro_batch(run_with_room_for(0, monkeypatch).train_state, batch(), rng(), halving)


def test_out_of_memory_errors_are_recognised() -> None:
    cpu = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    assert all(map(is_out_of_memory, (torch.OutOfMemoryError(), MemoryError(), cpu)))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
