"""FSDP2: sharding a model over the workers, and tensors from whole to shard and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn

from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.layers import Stage

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_shard(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether it is sharded. Asked without its class, whose import takes seconds that only FSDP has to spend."""
    return hasattr(tensor, "full_tensor")


def shard_model(model: SequenceModel) -> nn.Module:
    """Wrap with FSDP2: stages gather their weights one by one, the other weights are gathered with the whole model."""
    from torch.distributed.fsdp import fully_shard

    for module in model.modules():
        if isinstance(module, Stage):
            fully_shard(module)
    fully_shard(model)  # in place: the class changes, the object stays
    return model


def local_shard(tensor: Tensor) -> Tensor:
    """This worker's shard of a tensor; all of it where it is not sharded."""
    return tensor.to_local() if is_shard(tensor) else tensor


def as_shard(like: Tensor, local: Tensor) -> Tensor:
    """A local tensor as a shard, with the mesh and placements of `like`."""
    if not is_shard(like):
        return local
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(local, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())


def whole_tensors(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Whole copies on the CPU. All workers call it; `keep`: whether this one wants them."""
    whole = {}
    for name, tensor in tensors.items():
        gathered = tensor.full_tensor() if is_shard(tensor) else tensor
        if keep:
            whole[name] = gathered.detach().to("cpu", copy=True).contiguous()
    return whole


@torch.no_grad()
def fill(tensor: Tensor, whole: Tensor) -> None:
    """Copy a whole tensor into one that may be sharded. All workers call it."""
    if is_shard(tensor):
        from torch.distributed.tensor import distribute_tensor

        shard = distribute_tensor(whole.to(tensor.device), tensor.device_mesh, tensor.placements)
        tensor.to_local().copy_(shard.to_local())
    else:
        tensor.copy_(whole)
