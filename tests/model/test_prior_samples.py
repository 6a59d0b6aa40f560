import math

import pytest
import torch

from sadm_ray.config import SamplingSettings
from sadm_ray.model.prior_samples import MEMBERS, RANGES, Spread, smoothed, spread_loss
from tests.model.test_registry import SEEN, SHAPE, TIMES, frames, losses, made, shaken

SIZE = (8, 32, 32)


def test_smoothed_noise_has_unit_variance_everywhere_and_the_range_that_it_says() -> None:
    white = torch.randn(400, len(RANGES), 1, *SIZE, generator=torch.Generator().manual_seed(0))
    noise = smoothed(white)
    for place in ((0, 0, 0), (4, 16, 16), (7, 31, 5)):
        deviation = noise[(..., *place)].std(dim=0)[:, 0]
        torch.testing.assert_close(deviation, torch.ones(len(RANGES)), atol=0.15, rtol=0)
    for width, each in zip(RANGES, noise.unbind(dim=1), strict=True):
        inside = each[..., 8:24]
        together = float((inside[..., 1:] * inside[..., :-1]).mean())
        assert together == pytest.approx(math.exp(-0.25 / width**2) if width else 0.0, abs=0.03)
        across = float((each[:, :, 1:] * each[:, :, :-1]).mean())
        assert across == pytest.approx(0.0, abs=0.03), "slices that are thick differ"


def spread_of(size: tuple[int, int, int] = SIZE) -> Spread:
    """One channel; a motion's first channel, taken as it is, is the change."""
    generator = torch.Generator().manual_seed(1)
    grid = (4, 8, 8)
    return Spread(
        moved=lambda motion: motion[:, :1],
        motion=torch.randn(2, 3, *grid, generator=generator),
        change=torch.zeros(2, 1, *size),
        modes=torch.randn(2, 2, 3, *grid, generator=generator),
        log_shares=torch.zeros(2, len(RANGES), *grid),
    )


def test_a_sample_is_moved_by_its_modes_and_has_noise_of_every_range() -> None:
    spread, deviation = spread_of(), torch.full((2, 1, *SIZE), 0.5)
    none, white = torch.zeros(2, 2), torch.zeros(2, len(RANGES), *SIZE)
    still = spread.sample(none, white, deviation)
    first = spread.sample(torch.tensor([[1.0, 0.0]] * 2), white, deviation)
    twice = spread.sample(torch.tensor([[2.0, 0.0]] * 2), white, deviation)
    assert not torch.allclose(first, still)
    torch.testing.assert_close(twice - still, 2.0 * (first - still))
    noisy = spread.sample(none, torch.randn(2, len(RANGES), *SIZE), deviation) - still
    assert float(noisy.std()) == pytest.approx(0.5 * math.sqrt(len(RANGES)), rel=0.1)


def test_the_loss_wants_a_spread_like_the_error_voxel_by_voxel_and_in_blocks() -> None:
    generator = torch.Generator().manual_seed(2)

    def noise(width: int, many: int = 200) -> torch.Tensor:
        """Of unit variance in blocks of voxels that are alike."""
        coarse = torch.randn(many, 1, 8, 32 // width, 32 // width, generator=generator)
        return coarse.repeat_interleave(width, dim=-1).repeat_interleave(width, dim=-2)

    def loss(error: torch.Tensor, scale: float, width: int) -> float:
        return float(spread_loss(error, [scale * noise(width) for _ in range(MEMBERS)]).mean())

    for width in (1, 4):
        error = noise(width)
        assert loss(error, 1.0, width) < min(loss(error, 0.5, width), loss(error, 2.0, width))
    together = noise(4)
    assert loss(together, 1.0, 4) < loss(together, 1.0, 1), "each voxel's distribution is the same"


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_eulers_steps_keep_the_samples_of_an_untrained_denoiser(steps: int) -> None:
    """The flow is exact where nothing corrects the prior; DDIM loses a part of the spread."""
    torch.manual_seed(0)
    model, seeds = made("sadm").eval(), list(range(16))

    def deviation(sampler: str, count: int) -> float:
        sampling = SamplingSettings(sampler=sampler, num_steps=count)
        return float(model.generate(frames(), SEEN, TIMES, torch.tensor([[1.0]]), seeds, sampling).std(dim=0).mean())

    assert deviation("euler", steps) == pytest.approx(deviation("euler", 1), rel=5e-3)
    assert deviation("ddim", 4) < 0.9 * deviation("euler", steps)


def test_a_samples_motion_is_one_from_frame_to_frame_and_the_estimate_has_none() -> None:
    model = shaken("sadm")
    spread = model.spread
    assert spread is not None
    with torch.no_grad():
        for p in spread.log_shares.parameters():
            p.zero_()
        for level in spread.log_shares.levels:
            level[-1].bias.fill_(-10.0)  # without noise of the intensities
    encoded, wanted = model.observe(frames(), SEEN, TIMES), torch.tensor([[0.9, 0.901]])
    sampling = SamplingSettings(num_steps=1)
    drawn = model.roll_out(encoded, wanted, range(4), sampling)
    between_samples = (drawn[1:] - drawn[:1])[:, 0].abs().mean()
    between_frames = (drawn[:, 1] - drawn[:, 0]).abs().mean()
    assert between_frames < 0.2 * between_samples
    estimate = model.roll_out(encoded, wanted, None, sampling)
    assert torch.equal(estimate, model.roll_out(encoded, wanted, None, sampling))


def test_the_spread_teaches_nothing_to_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    def gradients() -> dict[str, torch.Tensor]:
        model = shaken("sadm")
        losses(model, frames()).sum().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    torch.manual_seed(0)
    taught = gradients()
    monkeypatch.setattr("sadm_ray.model.sadm.spread_loss", lambda *_: torch.zeros(1))
    torch.manual_seed(0)
    untaught = gradients()
    own = {name for name in taught if name.startswith("prior_network.spread.")}
    assert own
    assert all(taught[name].any() for name in own)
    assert taught.keys() - own == untaught.keys()
    for name, gradient in untaught.items():
        torch.testing.assert_close(taught[name], gradient, msg=name)


def test_its_noise_is_of_every_member() -> None:
    model = made("sadm")
    assert model.noise_size(SHAPE)[0] == MEMBERS * (len(RANGES) + 1)
    assert made("sadm", motion_modes=0).noise_size(SHAPE)[0] == 1
    assert made("regression").noise_size(SHAPE)[0] == 1
