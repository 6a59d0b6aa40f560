"""How many workers there are, and how they share the work, changes nothing but the rounding."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

from sadm_ray.config import TrainSettings
from sadm_ray.storage import Storage
from sadm_ray.train.checkpoint import Checkpoint, Checkpoints
from sadm_ray.train.train_state import StateTensors
from tests.train.runs import SETTINGS, Run, batch, in_processes, model

pytestmark = pytest.mark.long
STEPS = 5
EIGHT = SETTINGS.model_copy(update={"batch_size": 8, "optimizer": "adamw"})
BATCH = batch(EIGHT.batch_size)
APART, LOSSES_APART = {"adamw": 1e-3, "muon": 0.2}, {"adamw": 1e-5, "muon": 1e-3}
"""Muon goes equally far in all directions, also in those in which the gradient is nothing but rounding."""


def settings(name: str) -> TrainSettings:
    """Those that a folder is called after: ddp or fsdp, perhaps -muon."""
    return EIGHT.model_copy(update={"parallel": name.split("-")[0], "optimizer": optimizer(name)})


def optimizer(name: str) -> str:
    return "muon" if "muon" in name else "adamw"


def train(rank: int, world: int, folder: Path) -> None:
    """`STEPS` steps of the kind that the folder is called after, a checkpoint in the middle."""
    run = Run(settings(folder.name), rank, world)
    losses = []
    for step in range(STEPS):
        mine = run.step(step, micro_batch=1 if folder.name.endswith("micro") else None, whole=BATCH).losses
        shares: list[torch.Tensor | None] = [None] * world
        torch.distributed.all_gather_object(shares, mine)
        losses.append(torch.cat(shares).mean().item())  # type: ignore[arg-type]
        if step == 1:
            save(run, folder, keep=rank == 0)
    weights = run.train_state.state(keep=rank == 0)
    averaged = run.train_state.averaged(0.9)
    if rank == 0:
        torch.save({"losses": losses, "state": weights, "averaged": averaged.state_dict()}, folder / "result.pt")


def go_on(rank: int, world: int, folder: Path) -> None:
    """From the checkpoint in the middle to the end, as other workers of the other kind."""
    other = "fsdp" if folder.name.startswith("ddp") else "ddp"
    run = Run(settings(folder.name).model_copy(update={"parallel": other}), rank, world)
    run.train_state.restore(Checkpoint(Storage(str(folder / "checkpoints")), "checkpoint-00000002", {}).tensors())
    for step in range(2, STEPS):
        run.step(step, whole=BATCH)
    weights = run.train_state.state(keep=rank == 0)
    if rank == 0:
        torch.save(weights, folder / "resumed.pt")


def save(run: Run, folder: Path, *, keep: bool) -> None:
    state = run.train_state.state(keep=keep)
    if keep:
        Checkpoints(str(folder / "checkpoints")).write(run.train_state.bare.config, state, {"step": 2})


def apart(state: StateTensors, other: StateTensors) -> float:
    """How far apart two runs ended, as a share of the way that they went."""
    start = dict(model().named_parameters())
    gap = sum((state["weights"][name] - tensor).square().sum() for name, tensor in other["weights"].items())
    way = sum((tensor - start[name].detach()).square().sum() for name, tensor in other["weights"].items())
    return float(gap / way) ** 0.5


@functools.cache
def alone(optimizer: str) -> tuple[list[float], StateTensors]:
    run = Run(settings(f"ddp-{optimizer}"))
    losses = [run.step(step, whole=BATCH).losses.mean().item() for step in range(STEPS)]
    return losses, run.train_state.state()


KINDS = [("ddp", 4), ("fsdp", 2), ("ddp-micro", 2), ("fsdp-micro", 2), ("ddp", 3), ("ddp-muon", 2), ("fsdp-muon", 3)]


@pytest.mark.parametrize(("kind", "world"), KINDS)
def test_workers_together_equal_one(kind: str, world: int, tmp_path: Path) -> None:
    folder = tmp_path / kind
    folder.mkdir()
    in_processes(world, train, folder)
    result = torch.load(folder / "result.pt", weights_only=True)
    losses, state = alone(optimizer(kind))
    assert result["losses"] == pytest.approx(losses, rel=LOSSES_APART[optimizer(kind)])
    assert set(result["state"]) == set(state)
    for file, tensors in state.items():
        assert set(result["state"][file]) == set(tensors)
    assert apart(result["state"], state) < APART[optimizer(kind)]
    for name, tensor in result["averaged"].items():
        assert torch.equal(tensor, result["state"]["ema-0.9"][name])


@pytest.mark.parametrize(
    ("kind", "world", "then"), [("ddp", 2, 3), ("fsdp", 2, 2), ("ddp-muon", 2, 3), ("fsdp-muon", 2, 2)]
)
def test_others_may_go_on(kind: str, world: int, then: int, tmp_path: Path) -> None:
    folder = tmp_path / kind
    folder.mkdir()
    in_processes(world, train, folder)
    (folder / "rendezvous").unlink(missing_ok=True)
    in_processes(then, go_on, folder)
    undisturbed = torch.load(folder / "result.pt", weights_only=True)["state"]
    resumed = torch.load(folder / "resumed.pt", weights_only=True)
    assert apart(resumed, undisturbed) < APART[optimizer(kind)]
