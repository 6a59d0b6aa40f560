"""The range of a generated frame's intensities, and their precision."""

import torch

from sadm_ray.config import SamplingSettings
from sadm_ray.model.prior import prior_of
from sadm_ray.model.registry import build_model
from sadm_ray.model.sadm import Sadm
from tests.model.test_sadm import SHAPE, small

OBSERVED = torch.tensor([[True, False, True], [True, True, False]])
TIMES = torch.tensor([[0.0, 0.2, 0.5]] * 2)
WANTED = torch.tensor([[0.7, 1.1]] * 2)
SEEDS = [1, 2]


def frames() -> torch.Tensor:
    return torch.rand(2, 3, 1, *SHAPE, generator=torch.Generator().manual_seed(1))


def test_a_scan_that_is_brighter_than_the_range_is_not_cut_off() -> None:
    """As a later visit may be, or a z-score of more than 3; frames that are not observed do not widen the range."""
    seen = frames()
    seen[0, 2] = 2.0 * seen[0, 2] - 0.5
    seen[~OBSERVED] = 9.0
    untrained, model = build_model(small().config), small()
    estimate = untrained.roll_out(untrained.observe(seen, OBSERVED, TIMES), WANTED, None, SamplingSettings())
    torch.testing.assert_close(estimate[0, 0], seen[0, 2])  # an untrained prior is the reference
    drawn = model.generate(seen, OBSERVED, TIMES, WANTED, SEEDS)
    assert seen[0, 2].amin() <= drawn[0].amin() < 0.0
    assert 1.0 < drawn[0].amax() <= seen[0, 2].amax()
    assert drawn[1].amin() >= 0.0
    assert drawn[1].amax() <= 1.0


def test_bfloat16_does_not_round_the_priors_mean() -> None:
    """The networks may round; rounding of the mean itself would show in every voxel."""
    model, time = small(), WANTED[:, 0]
    assert isinstance(model, Sadm)
    assert model.prior_network is not None
    encoded = model.observe(frames(), OBSERVED, TIMES, precision="bfloat16")
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        context = model.context_at(encoded, time)
        expected = model.target.decode(prior_of(model.prior_network, context, model.target).mean, context.reference)
    estimate = model.roll_out(encoded, time[:, None], None, SamplingSettings(precision="bfloat16"))
    torch.testing.assert_close(estimate[:, 0], expected.clamp(0.0, 1.0), rtol=0.0, atol=1e-6)
