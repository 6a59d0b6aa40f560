import math

import pytest
import torch

from sadm_ray.config import SamplingSettings
from sadm_ray.diffusion.samplers import SeededNoise
from sadm_ray.model.prior import Prior, prior_of
from sadm_ray.model.prior_samples import MEMBERS, RANGES, SITE_RANGES, Spread, smoothed, spread_loss
from sadm_ray.model.recalibration import NOT_CALIBRATED, Correction, Recalibration
from tests.model.test_registry import SEEN, SHAPE, TIMES, frames, losses, made, shaken

SIZE = (8, 32, 32)


def test_smoothed_noise_has_unit_variance_everywhere_and_the_range_that_it_says() -> None:
    white = torch.randn(400, len(RANGES), 1, *SIZE, generator=torch.Generator().manual_seed(0))
    noise = smoothed(white, RANGES)
    for place in ((0, 0, 0), (4, 16, 16), (7, 31, 5)):
        deviation = noise[(..., *place)].std(dim=0)[:, 0]
        torch.testing.assert_close(deviation, torch.ones(len(RANGES)), atol=0.15, rtol=0)
    for width, each in zip(RANGES, noise.unbind(dim=1), strict=True):
        inside = each[..., 8:24]
        together = float((inside[..., 1:] * inside[..., :-1]).mean())
        assert together == pytest.approx(math.exp(-0.25 / width**2) if width else 0.0, abs=0.03)
        across = float((each[:, :, 1:] * each[:, :, :-1]).mean())
        assert across == pytest.approx(0.0, abs=0.03), "slices that are thick differ"


def spread_of(size: tuple[int, int, int] = SIZE, noise: float = 1e-9) -> Spread:
    """Of two sequences with two frames, at rest; the first mode moves everything by one voxel along the rows."""
    grid, generator = (4, 8, 8), torch.Generator().manual_seed(1)
    modes = torch.zeros(2, 2, 3, *grid)
    modes[:, 0, 2] = 1.0
    return Spread(
        frames=torch.rand(2, 2, 1, *size, generator=generator),
        weights=torch.tensor([[0.25, 0.75]] * 2),
        scale=0.5,
        fields=torch.zeros(2, 2, 3, *size),
        residual=torch.zeros(2, 1, *size),
        modes=modes,
        local=torch.zeros(2, len(SITE_RANGES), 3, *grid),
        log_noise=torch.full((2, len(RANGES), *grid), noise).log(),
    )


def test_a_sample_is_the_frames_moved_by_its_modes() -> None:
    spread = spread_of()
    reference = torch.einsum("bs,bscdhw->bcdhw", spread.weights, spread.frames)
    numbers, white = torch.zeros(2, spread.numbers), torch.randn(2, len(RANGES), *SIZE)
    assert float(spread.sample(numbers, white).abs().max()) < 1e-5, "at rest it is the reference"
    numbers[:, 0] = 2.0
    moved = reference + spread.scale * spread.sample(numbers, white)
    torch.testing.assert_close(moved[..., :-2], reference[..., 2:])
    half = spread.recalibrated(torch.full((2, 1, 1, 1, 1), 0.5), torch.ones(2, 1, 1, 1, 1), None)
    torch.testing.assert_close(half.displacement(numbers), 0.5 * spread.displacement(numbers))


def test_displacements_that_neighbours_share_have_their_deviation_and_range() -> None:
    spread = spread_of()._replace(local=torch.full((2, len(SITE_RANGES), 3, 4, 8, 8), 0.5))
    numbers = torch.randn(2, spread.numbers, generator=torch.Generator().manual_seed(0))
    numbers[:, :2] = 0.0
    many = torch.stack([
        spread.displacement(torch.where(numbers == 0, 0.0, torch.randn_like(numbers))) for _ in range(60)
    ])  # fmt: skip
    inside = many[..., 3:5, 14:18, 14:18]
    assert float(inside.std()) == pytest.approx(0.5 * math.sqrt(len(SITE_RANGES)), rel=0.2)
    step = (inside[..., 1:] - inside[..., :-1]).std()
    assert float(step) < 0.3 * float(inside.std()), "a site is four voxels"


def test_what_no_motion_explains_is_noise_of_every_range() -> None:
    spread = spread_of(noise=0.2)
    noise = spread.noise(torch.randn(2, len(RANGES), *SIZE, generator=torch.Generator().manual_seed(3)))
    assert float(noise.std()) == pytest.approx(0.2 * math.sqrt(len(RANGES)), rel=0.1)


def test_what_calibration_adds_is_noise_of_the_given_deviation_and_of_numbers_of_its_own() -> None:
    added = torch.full((2, 1, *SIZE), 0.3)
    spread = spread_of(noise=1e-6)
    prior = Prior(torch.zeros(2, 1, *SIZE), torch.zeros(2, 1, *SIZE), spread=spread)
    with_added = prior._replace(spread=spread._replace(added=added))
    before, after = (each.noise_from(SeededNoise([1, 2]))((1, *SIZE)) for each in (prior, with_added))
    assert float((after - before).std()) == pytest.approx(0.3, rel=0.1)


def test_each_kind_of_target_has_corrections_of_its_own() -> None:
    """A single scan, beyond two scans, between two."""
    corrected = {"single": Correction(motion=0.5), "beyond": Correction(noise=0.25), "between": Correction(motion=2.0)}
    recalibration = Recalibration(**corrected, subjects=9)
    model = shaken("sadm")
    assert model.prior_network is not None
    volumes, observed = torch.rand(3, 3, 1, *SHAPE), torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1]]).bool()
    encoded = model.observe(volumes, observed, torch.tensor([[0.0, 0.5, 1.0]] * 3))
    context = model.context_at(encoded, torch.tensor([1.0, 1.0, 0.5]))
    plain, found = (
        prior_of(model.prior_network, context, model.target, recalibration=each).spread
        for each in (NOT_CALIBRATED, recalibration)
    )
    assert plain is not None
    assert found is not None
    assert found.added is not None
    for place, factor in enumerate((0.5, 1.0, 2.0)):
        torch.testing.assert_close(found.modes[place], factor * plain.modes[place])
    assert [float(each.abs().max()) > 0 for each in found.added] == [False, True, False]


def test_the_members_of_a_training_sample_have_noise_of_their_own() -> None:
    spread, model = spread_of(), made("sadm")
    assert model.spread is not None
    eps = torch.arange(2.0 * MEMBERS * (len(RANGES) + 1) * math.prod(SIZE)).reshape(2, -1, *SIZE)
    (numbers, white), (others, other) = spread.noises(eps)
    assert numbers.shape == others.shape == (2, spread.numbers)
    assert white.shape == other.shape == (2, len(RANGES), *SIZE)
    seen = torch.cat([each[0].flatten() for each in (numbers, white, others, other)])
    assert len(seen.unique()) == len(seen)


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
        for p in spread.noise.parameters():
            p.zero_()
        for level in spread.noise.levels:
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
    patch = math.prod(model.conditioner.layout.patch)
    numbers = math.ceil(8 / math.prod(SHAPE) + 3 * len(SITE_RANGES) / patch)
    assert model.noise_size(SHAPE)[0] == MEMBERS * (len(RANGES) + numbers)
    assert made("sadm", motion_modes=0).noise_size(SHAPE)[0] == 1
    assert made("regression").noise_size(SHAPE)[0] == 1
