"""How many workers there are, and how they share the work, changes nothing but the rounding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sadm_ray.data.storage import Storage
from sadm_ray.train.checkpoint import Checkpoint, Checkpoints
from tests.train.runs import SETTINGS, Run, batch, in_processes

STEPS = 5
FOUR = SETTINGS.model_copy(update={"batch_size": 8})
BATCH = batch(FOUR.batch_size)


def train(rank: int, world: int, folder: Path) -> None:
    """`STEPS` steps of the kind that the folder is called after, a checkpoint in the middle."""
    kind = folder.name.split("-")[0]
    run = Run(FOUR.model_copy(update={"parallel": kind}), rank, world)
    losses = []
    for step in range(STEPS):
        mine = run.step(step, micro_batch=1 if folder.name.endswith("micro") else None, whole=BATCH).losses
        shares: list[torch.Tensor | None] = [None] * world
        torch.distributed.all_gather_object(shares, mine)
        losses.append(torch.cat(shares).mean().item())  # type: ignore[arg-type]
        if step == 1:
            save(run, folder, keep=rank == 0)
    weights = run.learner.state(keep=rank == 0)
    averaged = run.learner.averaged(0.9)
    if rank == 0:
        torch.save({"losses": losses, "state": weights, "averaged": averaged.state_dict()}, folder / "result.pt")


def go_on(rank: int, world: int, folder: Path) -> None:
    """From the checkpoint in the middle to the end, as other workers of the other kind."""
    run = Run(FOUR.model_copy(update={"parallel": "fsdp" if folder.name.startswith("ddp") else "ddp"}), rank, world)
    run.learner.restore(Checkpoint(Storage(str(folder / "checkpoints")), "checkpoint-00000002", {}).tensors())
    for step in range(2, STEPS):
        run.step(step, whole=BATCH)
    weights = run.learner.state(keep=rank == 0)
    if rank == 0:
        torch.save(weights, folder / "resumed.pt")


def save(run: Run, folder: Path, *, keep: bool) -> None:
    state = run.learner.state(keep=keep)
    if keep:
        Checkpoints(str(folder / "checkpoints")).write(run.learner.bare.config, state, {"step": 2})


@pytest.fixture(scope="module")
def alone() -> tuple[list[float], dict[str, dict[str, torch.Tensor]]]:
    run = Run(FOUR)
    losses = [run.step(step, whole=BATCH).losses.mean().item() for step in range(STEPS)]
    return losses, run.learner.state()


@pytest.mark.parametrize(("kind", "world"), [("ddp", 4), ("fsdp", 2), ("ddp-micro", 2), ("fsdp-micro", 2), ("ddp", 3)])
def test_workers_together_equal_one(kind: str, world: int, alone, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / kind
    folder.mkdir()
    in_processes(world, train, folder)
    result = torch.load(folder / "result.pt", weights_only=True)
    losses, state = alone
    assert result["losses"] == pytest.approx(losses, rel=1e-5)
    assert set(result["state"]) == set(state)
    for file, tensors in state.items():
        assert set(result["state"][file]) == set(tensors)
    for name, tensor in state["weights"].items():
        # AdamW divides by the size of a gradient, however small: what is rounding there shows in the weights.
        torch.testing.assert_close(result["state"]["weights"][name], tensor, rtol=0, atol=2e-4)
    for name, tensor in result["averaged"].items():
        assert torch.equal(tensor, result["state"]["ema-0.9"][name])


@pytest.mark.parametrize(("kind", "world", "then"), [("ddp", 2, 3), ("fsdp", 2, 2)])
def test_others_may_go_on(kind: str, world: int, then: int, tmp_path: Path) -> None:
    folder = tmp_path / kind
    folder.mkdir()
    in_processes(world, train, folder)
    (folder / "meeting").unlink(missing_ok=True)
    in_processes(then, go_on, folder)
    undisturbed = torch.load(folder / "result.pt", weights_only=True)["state"]
    resumed = torch.load(folder / "resumed.pt", weights_only=True)
    for name, tensor in undisturbed["weights"].items():
        torch.testing.assert_close(resumed["weights"][name], tensor, rtol=0, atol=2e-4)
