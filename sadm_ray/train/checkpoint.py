"""What a training run is, on disk: the model, its EMA, the optimizer and where it stands.

ema/config.json, ema/model.safetensors     what is used afterwards (`Sadm.from_pretrained`)
weights.safetensors                        what training goes on from
optimizer.pt                               tensors and numbers only: read with weights_only
state.json                                 the step
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from torch.optim.swa_utils import AveragedModel

from sadm_ray.model.sadm import WEIGHTS, Sadm

EMA = "ema"


def save_checkpoint(folder: Path, model: Sadm, ema: AveragedModel, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write everything into `folder`; `model` is the unwrapped one, `step` the number of steps done."""
    save_model(model, str(folder / "weights.safetensors"))
    average = ema.module
    assert isinstance(average, Sadm)  # noqa: S101  (what `averaged` was made of)
    average.save_pretrained(folder / EMA)
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    (folder / "state.json").write_text(json.dumps({"step": step, "averaged": int(ema.n_averaged)}), encoding="utf-8")


def load_checkpoint(folder: Path, model: Sadm, ema: AveragedModel, optimizer: torch.optim.Optimizer) -> int:
    """Put back what `save_checkpoint` wrote; returns the number of steps done."""
    load_model(model, str(folder / "weights.safetensors"))
    load_model(ema.module, str(folder / EMA / WEIGHTS))
    optimizer.load_state_dict(torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True))
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    ema.n_averaged.fill_(state["averaged"])
    return int(state["step"])
