"""Channels that are contrasts, of which frames may lack some: what is absent is never read, taken for 0 or counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sadm_ray.config import ConditionerSettings, DenoiserSettings, ModelSettings, NetworkSettings, TrainSettings
from sadm_ray.data.load.rng import SampleRng
from sadm_ray.diffusion.loss import channel_mean
from sadm_ray.diffusion.reference_frames import (
    nearest_observed,
    neighbours_observed,
    reference_frames_at,
    with_channels_filled,
)
from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.model.registration import RegisteredPairs, aligned
from sadm_ray.model.registry import KINDS, build_model
from sadm_ray.model.time_warp import TimeWarp
from sadm_ray.train.train_step import Batch, sample_losses

SHAPE = (4, 16, 16)
TIMES = torch.tensor([[0.0, 0.4, 0.6, 1.0]])
OBSERVED = torch.tensor([[True, True, True, False]])
HAS = torch.tensor([[[True, True], [False, True], [True, False], [True, True]]])


def model_of(kind: str = "sadm", channels: int = 2, **more: Any) -> SequenceModel:
    torch.manual_seed(0)
    network = {"widths": (16, 16), "blocks": 1, "heads": 2}
    settings = ModelSettings(
        kind=kind,
        difference_scale=0.2,
        conditioner=ConditionerSettings(widths=(8, 16), heads=2, layers=1, channels=4),
        prior=NetworkSettings(**network),
        denoiser=DenoiserSettings(**network),
        **more,
    )
    model = build_model(ModelConfig(shape=SHAPE, channels=channels, model=settings)).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def volumes(*size: int, seed: int = 1) -> Tensor:
    return torch.rand(*size, *SHAPE, generator=torch.Generator().manual_seed(seed))


def loss(model: SequenceModel, frames: Tensor, target: Tensor, **more: Any) -> Tensor:
    eps = torch.randn(len(frames), *model.noise_size(SHAPE), generator=torch.Generator().manual_seed(3))
    known = {"target_time": torch.tensor([0.8]), "t": torch.tensor([0.4]), "eps": eps}
    return model(frames, OBSERVED, TIMES, target, **known, **more)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("junk", [torch.nan, 7.0])
def test_what_stands_in_an_absent_channel_changes_nothing(kind: str, junk: float) -> None:
    model, frames, target = model_of(kind), volumes(1, 4, 2), volumes(1, 2, seed=2)
    only_first = torch.tensor([[True, False]])
    broken = torch.where(HAS[..., None, None, None], frames, junk)
    absent = torch.where(only_first[..., None, None, None], target, junk)
    known = {"has_channel": HAS, "target_channels": only_first}
    plain = loss(model, frames, target, **known)
    assert torch.isfinite(plain).all()
    torch.testing.assert_close(loss(model, broken, absent, **known), plain, rtol=0, atol=0)
    wanted = {"target_times": torch.tensor([[0.8, 1.2]]), "seeds": [1], "has_channel": HAS}
    generated = model.generate(frames, OBSERVED, TIMES, **wanted)
    torch.testing.assert_close(model.generate(broken, OBSERVED, TIMES, **wanted), generated, rtol=0, atol=0)
    assert generated.shape == (1, 2, 2, *SHAPE)
    assert not torch.equal(loss(model, frames, target, has_channel=torch.ones_like(HAS)), plain)


@pytest.mark.parametrize("kind", ["sadm", "sadm_paper", "regression", "flow"])
def test_an_absent_channel_of_the_target_gives_no_gradient_of_its_own(kind: str) -> None:
    """A target of which nothing counts trains nothing at all, and its loss is 0."""
    model = model_of(kind)
    nothing = {"has_channel": HAS, "target_channels": torch.tensor([[False, False]])}
    found = loss(model, volumes(1, 4, 2), volumes(1, 2, seed=2), **nothing)
    assert found.tolist() == [pytest.approx(0, abs=1e-6)]
    found.sum().backward()
    assert all(p.grad is None or p.grad.abs().max() < 1e-6 for p in model.parameters())


def test_a_channel_that_nobody_observed_does_not_count() -> None:
    """There is nothing to tell its difference from: its volume, and 0 in the place of one, change nothing."""
    model, frames = model_of(), volumes(1, 4, 2)
    unseen = HAS.clone()
    unseen[..., 1] = torch.tensor([False, False, False, True])  # the target itself has it
    one, other = volumes(1, 2, seed=2), volumes(1, 2, seed=2)
    other[:, 1] = 0
    torch.testing.assert_close(
        loss(model, frames, one, has_channel=unseen), loss(model, frames, other, has_channel=unseen), rtol=0, atol=0
    )


def test_all_channels_are_there_where_nothing_is_said() -> None:
    model, frames, target = model_of(), volumes(1, 4, 2), volumes(1, 2, seed=2)
    every = {"has_channel": torch.ones_like(HAS), "target_channels": torch.ones(1, 2, dtype=torch.bool)}
    torch.testing.assert_close(loss(model, frames, target), loss(model, frames, target, **every), rtol=0, atol=0)


def test_the_model_is_told_what_is_absent() -> None:
    """A channel that is absent is not one that is black."""
    model, frames = model_of(), volumes(1, 4, 2)
    frames = torch.where(HAS[..., None, None, None], frames, 0.0)
    absent, black = (model.observe(frames, OBSERVED, TIMES, has_channel=has) for has in (HAS, torch.ones_like(HAS)))
    torch.testing.assert_close(absent.frames, black.frames)
    for one, other in zip(absent.features, black.features, strict=True):
        assert torch.equal(one[:, 0], other[:, 0])
        assert not torch.equal(one[:, 1], other[:, 1])


def test_one_channel_has_the_weights_that_it_had() -> None:
    model = model_of(channels=1)
    stem = model.conditioner.encoder.enter[0]
    assert stem.weight.shape[1] == 2 * 4 * 4
    assert model.conditioner.layout.presence_channels == 0
    frames, target = volumes(1, 4, 1), volumes(1, 1, seed=2)
    told = {"has_channel": torch.ones(1, 4, 1, dtype=torch.bool), "target_channels": torch.ones(1, 1).bool()}
    torch.testing.assert_close(loss(model, frames, target, **told), loss(model, frames, target), rtol=0, atol=0)
    assert model_of(channels=2).conditioner.encoder.enter[0].weight.shape[1] == 2 * (2 * 4 * 4) + 2


def test_a_reference_takes_each_channel_from_the_nearest_frame_that_has_it() -> None:
    frames = torch.arange(1.0, 9.0).view(1, 4, 2, 1, 1, 1).expand(1, 4, 2, *SHAPE)  # 1 2 | 3 4 | 5 6 | 7 8
    time = torch.tensor([0.7])
    places = nearest_observed(OBSERVED, TIMES, time)[:, None]
    still = reference_frames_at(frames, TIMES, time, places, torch.ones(1, 1))
    filled = with_channels_filled(still, places, frames, HAS, OBSERVED, TIMES, time)
    assert filled.reference[0, :, 0, 0, 0].tolist() == [5.0, 4.0], "the second from the frame before"
    assert filled.has_channel is not None
    assert filled.has_channel.tolist() == [[[True, False]]]
    torch.testing.assert_close(filled.channel_time, torch.tensor([[[-0.1, -0.3]]]))
    places, weights = neighbours_observed(OBSERVED, TIMES, torch.tensor([0.45]))
    still = reference_frames_at(frames, TIMES, torch.tensor([0.45]), places, weights)
    filled = with_channels_filled(still, places, frames, HAS, OBSERVED, TIMES, torch.tensor([0.45]))
    assert filled.frames[0, :, :, 0, 0, 0].tolist() == [[5.0, 4.0], [5.0, 4.0]], "no weight goes to a zero"
    nobody = torch.zeros_like(HAS)
    nobody[..., 0] = True
    filled = with_channels_filled(still, places, frames, nobody, OBSERVED, TIMES, torch.tensor([0.45]))
    assert not filled.frames[:, :, 1].any()


def test_the_change_of_a_channel_grows_with_the_time_from_its_own_scan() -> None:
    """At the time of a visit that lacks the second channel, that one may have changed, the first may not."""
    model = model_of(target="difference")
    at_visit = torch.tensor([0.6])
    encoded = model.observe(volumes(1, 4, 2), OBSERVED, TIMES, has_channel=HAS)
    with torch.no_grad():
        context = model.context_at(encoded, at_visit)
        mean = model.prior_network(context.condition).mean
        times = model.conditioner.layout.channel_time_of(context.condition)
    torch.testing.assert_close(times.abs().amin(dim=1), torch.tensor([[0.0, 0.2]]))
    assert not mean[:, 0].any()
    assert mean[:, 1].any()


def test_registration_counts_what_both_frames_have_and_moves_nothing_else() -> None:
    steps = torch.arange(16.0)
    ball = torch.exp(-((steps[:, None] - 7) ** 2 + (steps - 7) ** 2) / 8).expand(4, 16, 16)
    moved = ball.roll(2, dims=2)
    frames = torch.stack([torch.stack([ball, ball]), torch.stack([moved, 1 - ball])])[None]  # t c
    times, observed = torch.tensor([[0.0, 1.0]]), torch.ones(1, 2, dtype=torch.bool)
    has = torch.tensor([[[True, True], [True, False]]])
    target_time = torch.tensor([0.5])
    places, weights = neighbours_observed(observed, times, target_time)

    def displacement(frames: Tensor, has: Tensor) -> Any:
        still = reference_frames_at(frames, times, target_time, places, weights)
        filled = with_channels_filled(still, places, frames, has, observed, times, target_time)
        return filled, aligned(filled, RegisteredPairs().field_of(filled, places), target_time, TimeWarp(1.0))

    filled, found = displacement(frames, has)
    alone = torch.where(torch.tensor([True, False]).view(1, 1, 2, 1, 1, 1), frames, 0.0)
    _, expected = displacement(alone, torch.ones_like(has))
    torch.testing.assert_close(found.displacement, expected.displacement)
    torch.testing.assert_close(found.frames[:, 1, 1], filled.frames[:, 1, 1])
    assert not torch.allclose(found.frames[:, 0, 0], filled.frames[:, 0, 0])


def test_the_mean_is_of_the_channels_that_count() -> None:
    errors = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1, 1).expand(3, 2, *SHAPE)
    counted = torch.tensor([[True, True], [False, True], [False, False]])
    assert channel_mean(errors, counted).tolist() == [2.0, 3.0, 0.0]
    assert channel_mean(errors).tolist() == [2.0, 2.0, 2.0]


def test_a_training_step_takes_what_the_batch_says() -> None:
    model, frames = model_of(), volumes(2, 4, 2)
    has = HAS.expand(2, -1, -1).clone()
    batch = Batch(frames, torch.ones(2, 4, dtype=torch.bool), TIMES.expand(2, 4), has_channel=has)
    junk = Batch(torch.where(has[..., None, None, None], frames, 9.0), batch.present, batch.times, has_channel=has)
    settings = TrainSettings(augment={"gain": 0.1, "offset": 0.1, "flip": [False, False, True]})
    losses = []
    for each in (batch, junk):
        rng = SampleRng(0, 0, range(2), 2)
        losses.append(sample_losses(model, model.noise_size(SHAPE), each.part(slice(0, 2)), rng, settings)[0])
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=0)
