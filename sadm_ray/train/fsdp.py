"""FSDP2: sharding a model over the workers, and tensors from whole to shard and back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.layers import Stage


def shard_model(model: SequenceModel) -> nn.Module:
    """Wrap with FSDP2: stages gather their weights one by one, the other weights are gathered with the whole model."""
    for module in model.modules():
        if isinstance(module, Stage):
            fully_shard(module)
    fully_shard(model)  # in place: the class changes, the object stays
    return model


def local_shard(tensor: Tensor) -> Tensor:
    """This worker's shard of a tensor; all of it where it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def as_shard(like: Tensor, local: Tensor) -> Tensor:
    """A local tensor as a shard, with the mesh and placements of `like`."""
    if not isinstance(like, DTensor):
        return local
    return DTensor.from_local(local, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())


def whole_tensors(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Whole copies on the CPU. All workers call it; `keep`: whether this one wants them."""
    whole = {}
    for name, tensor in tensors.items():
        gathered = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if keep:
            whole[name] = gathered.detach().to("cpu", copy=True).contiguous()
    return whole


@torch.no_grad()
def fill(tensor: Tensor, whole: Tensor) -> None:
    """Copy a whole tensor into one that may be sharded. All workers call it."""
    if isinstance(tensor, DTensor):
        shard = distribute_tensor(whole.to(tensor.device), tensor.device_mesh, tensor.placements)
        tensor.to_local().copy_(shard.to_local())
    else:
        tensor.copy_(whole)
