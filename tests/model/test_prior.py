"""The prior: mean and variance of every voxel, from the condition alone."""

import math
from dataclasses import replace

import torch

from sadm_ray.config import NetworkSettings
from sadm_ray.diffusion.reference_frames import ReferenceFrames
from sadm_ray.model.condition_channels import ConditionChannels
from sadm_ray.model.displacement_field import LEAP, SHIFT, VELOCITY, motion_channels, motion_residual, warp
from sadm_ray.model.finite_differences import gradient_magnitude
from sadm_ray.model.prior import INTENSITY_ERROR, LIKELIHOOD_WEIGHT, POSITION_ERROR, Prior, PriorNetwork

PATCH = (2, 4, 4)
DISPLACEMENT = torch.tensor([0.0, 1.0, -2.0]).view(1, 3, 1, 1, 1)
LAYOUT = ConditionChannels(decoded=3, references=2, channels=1, patch=PATCH)


def references(batch: int = 2) -> ReferenceFrames:
    frames = torch.rand(batch, 2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return ReferenceFrames(frames, torch.tensor([[-0.5, 0.25]] * batch), torch.tensor([[1 / 3, 2 / 3]] * batch))


def test_a_condition_gives_back_what_was_packed() -> None:
    packed = LAYOUT.pack(
        torch.randn(2, 3, 2, 2, 2),
        replace(references(), displacement=DISPLACEMENT.expand(2, 3, 4, 8, 8)),
        time_scale=0.5,
    )
    assert packed.shape == (2, LAYOUT.width, 2, 2, 2)
    torch.testing.assert_close(LAYOUT.frames_of(packed), references().frames)
    torch.testing.assert_close(LAYOUT.weights_of(packed), references().weights)
    torch.testing.assert_close(LAYOUT.displacement_of(packed), 0.5 * DISPLACEMENT.expand(2, 3, 4, 8, 8))
    assert packed[:, 3:5, 0, 0, 0].tolist() == [[-1.0, 0.5]] * 2, "in units of the time scale"


def test_the_null_condition_has_frames_of_one_half_without_weight() -> None:
    null = torch.zeros(1, LAYOUT.width, 2, 2, 2)
    assert (LAYOUT.frames_of(null) == 0.5).all()
    assert not LAYOUT.weights_of(null).any()


def test_motion_moves_the_frames_and_shifts_their_weights() -> None:
    known, moves = references(), torch.zeros(2, motion_channels(2), 4, 8, 8)

    def moved(motion: torch.Tensor) -> torch.Tensor:
        return known.reference + motion_residual(known.frames, known.time_from_target, known.weights, motion)

    torch.testing.assert_close(moved(moves), known.reference)
    shifted = moves.clone()
    shifted[:, 6] = 0.5
    more = torch.tensor([-1.0, 1.0]) * 0.5 * SHIFT * 0.25  # the nearer frame is a quarter away
    torch.testing.assert_close(
        moved(shifted), ReferenceFrames(known.frames, known.time_from_target, known.weights + more).reference
    )
    shifted = moves.clone()
    shifted[:, 5] = 1.0 / (VELOCITY * 0.25)  # the second frame, a quarter ahead, by one voxel along w
    field = torch.zeros(2, 3, 4, 8, 8)
    field[:, 2] = 1.0
    expected = (known.frames[:, 0] + 2.0 * warp(known.frames[:, 1], field)) / 3.0
    torch.testing.assert_close(moved(shifted), expected)


def test_a_shift_of_time_moves_all_frames_along_the_displacement_field() -> None:
    known, shifted, displacement = references(), torch.zeros(2, motion_channels(2), 4, 8, 8), torch.zeros(2, 3, 4, 8, 8)
    shifted[:, 7], displacement[:, 1] = 0.5, 4.0
    change = motion_residual(known.frames, known.time_from_target, known.weights, shifted, displacement)
    field = 0.5 * LEAP * 0.25 * displacement
    moved = torch.stack([warp(frame, field) for frame in known.frames.unbind(dim=1)], dim=1)
    torch.testing.assert_close(
        change, ReferenceFrames(moved, known.time_from_target, known.weights).reference - known.reference
    )
    assert not motion_residual(known.frames, known.time_from_target, known.weights, shifted).any(), (
        "no displacement field, no motion along it"
    )


def test_nothing_moves_in_no_time() -> None:
    frames, any_motion = references().frames, torch.randn(2, motion_channels(2), 4, 8, 8)
    at_the_first = motion_residual(frames, torch.tensor([[0.0, 0.5]] * 2), torch.tensor([[1.0, 0.0]] * 2), any_motion)
    assert not at_the_first.any()


def test_a_frame_alone_is_moved() -> None:
    frames, motion = references().frames[:, :1], torch.ones(2, motion_channels(1), 4, 8, 8)
    alone = motion_residual(frames, torch.full((2, 1), -0.5), torch.ones(2, 1), motion)
    torch.testing.assert_close(alone, warp(frames[:, 0], -0.5 * VELOCITY * motion) - frames[:, 0])


def test_an_untrained_prior_is_the_reference_with_variance_at_its_edges() -> None:
    prior_network = PriorNetwork(NetworkSettings(widths=(16, 16), blocks=1, heads=2), LAYOUT, scale=0.1, motion=True)
    frames = torch.zeros(1, 2, 1, 4, 8, 8)
    frames[..., 4:] = 1.0
    known = ReferenceFrames(frames, torch.tensor([[-0.5, 0.25]]), torch.tensor([[1 / 3, 2 / 3]]))
    prior = prior_network(LAYOUT.pack(torch.randn(1, 3, 2, 2, 2), known, 1.0))
    assert not prior.mean.any()
    deviation = 0.1 * (0.5 * prior.log_variance).exp()  # in units of intensity
    torch.testing.assert_close(deviation[..., :3], torch.full((1, 1, 4, 8, 3), INTENSITY_ERROR))
    at_the_edge = math.hypot(INTENSITY_ERROR, POSITION_ERROR * 0.25 * 0.5)
    torch.testing.assert_close(deviation[..., 3:5], torch.full((1, 1, 4, 8, 2), at_the_edge))


def test_gradient_magnitude_is_the_length_of_the_gradient() -> None:
    d, h, w = torch.meshgrid(*(torch.arange(size, dtype=torch.float32) for size in (3, 5, 6)), indexing="ij")
    slope = gradient_magnitude((2.0 * d + 3.0 * h + 6.0 * w)[None, None])
    torch.testing.assert_close(slope[..., 1:-1, 1:-1, 1:-1], torch.full((1, 1, 1, 3, 4), 7.0))
    assert not gradient_magnitude(torch.ones(1, 1, 1, 1, 1)).any()


def test_a_prior_is_packed_as_channels() -> None:
    prior = Prior(torch.randn(2, 1, 4, 8, 8), torch.randn(2, 1, 4, 8, 8))
    packed = prior.on_grid(PATCH)
    assert packed.shape[1] == Prior.width(LAYOUT)
    other = Prior.from_grid(packed, PATCH)
    torch.testing.assert_close(prior.mean, other.mean)
    torch.testing.assert_close(prior.log_variance, other.log_variance)


def test_the_loss_is_least_for_the_true_mean_and_variance() -> None:
    generator = torch.Generator().manual_seed(1)
    x = 0.3 + 0.5 * torch.randn(1, 1, 8, 64, 64, generator=generator)
    log_variance = torch.full_like(x, 2 * math.log(0.5))

    def loss(mean: float, more: float) -> float:
        return Prior(torch.full_like(x, mean), log_variance + more).loss(x).item()

    assert loss(0.3, 0.0) < min(loss(0.1, 0.0), loss(0.5, 0.0))
    # The mean's error counts in units of the variance, so compare the likelihood alone.
    for more in (-0.7, 0.7):
        likelihoods = []
        for log in (log_variance, log_variance + more):
            squared = ((x - 0.3) ** 2).mean() / log.exp().mean().clamp(1e-3, 1.0).sqrt()
            likelihoods.append((Prior(torch.full_like(x, 0.3), log).loss(x) - squared).item() / LIKELIHOOD_WEIGHT)
        assert likelihoods[0] < likelihoods[1]


def test_the_mean_is_not_fitted_by_likelihood() -> None:
    """Its gradient has one weight in all voxels of a volume, however far off they may be."""
    mean = torch.zeros(1, 1, 1, 1, 2, requires_grad=True)
    log_variance = torch.tensor([-4.0, 2.0]).view(1, 1, 1, 1, 2)
    Prior(mean, log_variance).loss(torch.ones(1, 1, 1, 1, 2)).sum().backward()
    assert mean.grad is not None
    assert mean.grad.flatten()[0] == mean.grad.flatten()[1]
