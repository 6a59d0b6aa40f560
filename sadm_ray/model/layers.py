"""Layers of the conditioner and the denoiser.

Shapes: b batch, t frames, c channels, (d, h, w) grid, n = d·h·w sites, e channels of one attention head.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sadm_ray.model.memory_bounds import by_slabs
from sadm_ray.model.mixed_precision import gradients_want_padding, is_slower_alone

PatchSize = tuple[int, int, int]
Tokens = tuple[Float[Tensor, "b k e"], Bool[Tensor, "b k"]]
"""Embeddings, and which of them count."""
M = TypeVar("M", bound=nn.Module)


def space_to_depth(x: Float[Tensor, "b c d h w"], patch: PatchSize) -> Float[Tensor, "b k e f g"]:
    """Each patch of voxels becomes the channels of one site: coarser and lossless."""
    p, q, r = patch
    return rearrange(x, "b c (d p) (h q) (w r) -> b (c p q r) d h w", p=p, q=q, r=r)


def depth_to_space(x: Float[Tensor, "b k e f g"], patch: PatchSize) -> Float[Tensor, "b c d h w"]:
    """The inverse of `space_to_depth`."""
    p, q, r = patch
    return rearrange(x, "b (c p q r) d h w -> b c (d p) (h q) (w r)", p=p, q=q, r=r)


def activated(x: Tensor) -> Tensor:
    """SiLU of what nothing else reads: without gradients in its own memory."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def recomputed(block: nn.Module, *inputs: Tensor | None) -> Tensor:
    """Call a block without keeping its activations for the backward pass."""
    return checkpoint(block, *inputs, use_reentrant=False)


def group_norm(channels: int) -> nn.GroupNorm:
    """Groups of about 16 channels, in a number that divides them."""
    return nn.GroupNorm(math.gcd(channels, max(channels // 16, 1)), channels)


def zeroed(layer: M) -> M:
    """Start a layer at zero, so that the block around it starts as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class Fourier(nn.Module):
    """Scalars to `width` features: sines and cosines at `octaves` doublings of frequency, then an MLP."""

    def __init__(self, inputs: int, width: int, octaves: int = 6, lowest: float = 0.25) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", 2 * math.pi * lowest * 2.0 ** torch.arange(octaves), persistent=False)
        self.mlp = nn.Sequential(
            nn.Linear(inputs * (2 * octaves + 1), width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )

    def forward(self, values: Float[Tensor, "*b inputs"]) -> Float[Tensor, "*b width"]:
        angles = (values[..., None] * self.frequencies).flatten(-2)
        return self.mlp(torch.cat([values, angles.sin(), angles.cos()], dim=-1))


class Convolution(nn.Conv3d):
    """3×3×3 at the same size."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b k d h w"]:
        if is_slower_alone(x):
            return super().forward(torch.cat([x, torch.zeros_like(x)]))[:1]
        if x.shape[2] == 2 and gradients_want_padding(x):
            return F.conv3d(F.pad(x, (0, 0, 0, 0, 1, 1)), self.weight, self.bias, padding=(0, 1, 1))
        return super().forward(x)


class ResBlock(nn.Module):
    """Two normalised 3×3×3 convolutions beside the identity, optionally modulated by an embedding (FiLM)."""

    def __init__(self, inputs: int, outputs: int, embedding: int | None = None) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(inputs), Convolution(inputs, outputs)
        self.norm2, self.conv2 = group_norm(outputs), zeroed(Convolution(outputs, outputs))
        self.film = None if embedding is None else zeroed(nn.Linear(embedding, 2 * outputs))
        self.skip = nn.Identity() if inputs == outputs else nn.Conv3d(inputs, outputs, 1)

    def forward(
        self, x: Float[Tensor, "b c d h w"], embedding: Float[Tensor, "b e"] | None = None
    ) -> Float[Tensor, "b k d h w"]:
        hidden = self.norm2(self.conv1(activated(self.norm1(x))))
        if self.film is not None and embedding is not None:
            scale, shift = self.film(embedding)[..., None, None, None].chunk(2, dim=1)
            hidden = hidden * (1 + scale) + shift
        return self.skip(x) + self.conv2(activated(hidden))


class Stage(nn.Module):
    """Residual blocks one after another, the first of which may change the number of channels.

    With `recompute` their activations are not kept for the backward pass but computed again: less memory, more time.
    """

    recompute = False

    def __init__(self, inputs: int, outputs: int, blocks: int, embedding: int | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ResBlock(inputs if index == 0 else outputs, outputs, embedding) for index in range(blocks)
        )

    def forward(
        self, x: Float[Tensor, "b c d h w"], embedding: Float[Tensor, "b e"] | None = None
    ) -> Float[Tensor, "b k d h w"]:
        for block in self.blocks:
            x = recomputed(block, x, embedding) if self.recompute and self.training else block(x, embedding)
        return x


class SpatialAttention(nn.Module):
    """Every site of a volume attends to every other."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = group_norm(channels)
        self.qkv = nn.Conv3d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv3d(channels, channels, 1))

    def forward(self, x: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b c d h w"]:
        d, h, w = x.shape[-3:]
        packed = rearrange(self.qkv(self.norm(x)), "b (three m e) d h w -> three b m (d h w) e", three=3, m=self.heads)
        # The fused kernels want e next to each other in memory; the plain one makes a matrix of all sites by all sites.
        q, k, v = packed.contiguous()
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(rearrange(mixed, "b m (d h w) e -> b (m e) d h w", d=d, h=h, w=w))


class TemporalAttention(nn.Module):
    """Every site of the target attends to the same site of the observed frames.

    Keys and values are modulated by when a frame was acquired and when the target is. Absent frames are masked; their
    features have to be finite. Tokens, which belong to no site, are attended to beside the frames.
    """

    def __init__(self, channels: int, frame_channels: int, heads: int, embedding: int, *, tokens: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.norm = group_norm(channels)
        self.query = nn.Conv3d(channels, channels, 1)
        self.key_value = nn.Linear(frame_channels, 2 * channels)
        self.when = nn.Linear(embedding, 3 * channels + heads)
        self.token = nn.Linear(embedding, 2 * channels) if tokens else None
        self.out = zeroed(nn.Conv3d(channels, channels, 1))

    def forward(
        self,
        x: Float[Tensor, "b c d h w"],
        frames: Float[Tensor, "b t k d h w"],
        observed: Bool[Tensor, "b t"],
        when: Float[Tensor, "b t e"],
        tokens: Tokens | None = None,
    ) -> Float[Tensor, "b c d h w"]:
        def attend(normed: Tensor, frames: Tensor) -> Tensor:
            return self.out(self._mixed(self.query(normed), frames, observed, when, tokens))

        return x + by_slabs(attend, self.norm(x), frames)

    def _mixed(
        self,
        query: Float[Tensor, "b c d h w"],
        frames: Float[Tensor, "b t k d h w"],
        observed: Bool[Tensor, "b t"],
        when: Float[Tensor, "b t e"],
        tokens: Tokens | None,
    ) -> Float[Tensor, "b c d h w"]:
        """The values of the frames and tokens at each site, weighted."""
        d, h, w = query.shape[-3:]
        q = rearrange(query, "b (m e) d h w -> b (d h w) m e", m=self.heads)
        key, value = self.key_value(rearrange(frames, "b t k d h w -> b t (d h w) k")).chunk(2, dim=-1)
        c = key.shape[-1]
        key_shift, value_scale, value_shift, bias = self.when(when).split([c, c, c, self.heads], dim=-1)
        key = rearrange(key + key_shift[:, :, None], "b t n (m e) -> b t n m e", m=self.heads)
        value = rearrange(
            value * (1 + value_scale[:, :, None]) + value_shift[:, :, None], "b t n (m e) -> b t n m e", m=self.heads
        )
        q = q * q.shape[-1] ** -0.5
        logits = torch.einsum("bnme,btnme->btnm", q, key) + bias[:, :, None]
        logits = logits.masked_fill(~observed[:, :, None, None], -torch.inf)
        if self.token is None or tokens is None:
            mixed = torch.einsum("btnm,btnme->bnme", logits.softmax(dim=1), value)
        else:
            more_key, more_value = rearrange(self.token(tokens[0]), "b k (two m e) -> two b k m e", two=2, m=self.heads)
            more = torch.einsum("bnme,bkme->bknm", q, more_key)
            more = more.masked_fill(~tokens[1][:, :, None, None], -torch.inf)
            sizes = [logits.shape[1], more.shape[1]]
            weights, more_weights = torch.cat([logits, more], dim=1).softmax(dim=1).split(sizes, dim=1)
            mixed = torch.einsum("btnm,btnme->bnme", weights, value)
            mixed = mixed + torch.einsum("bknm,bkme->bnme", more_weights, more_value)
        return rearrange(mixed, "b (d h w) m e -> b (m e) d h w", d=d, h=h, w=w)
