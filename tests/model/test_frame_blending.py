"""Frame blending: the second prediction between two frames."""

from dataclasses import replace

import pytest
import torch

from sadm_ray.config import ModelKind, NetworkSettings, SamplingSettings
from sadm_ray.diffusion.reference_frames import ReferenceFrames
from sadm_ray.diffusion.residual import Residual
from sadm_ray.model.baselines.regression import Regression
from sadm_ray.model.condition_channels import ConditionChannels
from sadm_ray.model.encoded_sequence import TargetContext
from sadm_ray.model.frame_blending import AROUND, FrameBlending
from sadm_ray.model.prior import Prior, PriorNetwork, prior_of
from sadm_ray.model.recalibration import NOT_CALIBRATED, Correction, Recalibration
from sadm_ray.model.sadm import Sadm
from tests.model.test_registry import TIMES, frames, made, shaken

SIZE = (8, 16, 16)
CONVOLUTIONS = 3
TARGET = Residual("motion", 0.1)
RECALIBRATED = Recalibration(beyond=Correction(change=0.8), between=Correction(change=1.4), subjects=12)


def references(shares: list[float], size: tuple[int, int, int] = SIZE) -> ReferenceFrames:
    """Noise, seen at a share of the way between two frames."""
    share = torch.tensor(shares)
    shown = torch.rand(len(shares), 2, 1, *size, generator=torch.Generator().manual_seed(0))
    clocks = torch.stack([-share, 1.0 - share], dim=1), torch.stack([1.0 - share, share], dim=1)
    return ReferenceFrames(shown, *clocks, displacement=torch.zeros(len(shares), 3, *size))


def trained() -> FrameBlending:
    """One whose last layer is not zero."""
    torch.manual_seed(0)
    frame_blending = FrameBlending(1)
    torch.nn.init.normal_(frame_blending.layers[-1].weight)
    return frame_blending


def test_untrained_it_is_the_reference() -> None:
    known = references([0.2, 0.7])
    torch.testing.assert_close(FrameBlending(1)(known, known), known.reference)


def test_it_changes_the_reference_between_two_frames_only() -> None:
    known, frame_blending = references([0.3, 0.0, 1.0]), trained()
    blended = frame_blending(known, known)
    assert (blended[0] - known.reference[0]).abs().amax() > 0.01
    torch.testing.assert_close(blended[1:], known.reference[1:])
    alone = frame_blending(known.rows(torch.tensor([0])), known.rows(torch.tensor([0])))
    torch.testing.assert_close(blended[:1], alone)


def test_a_batch_without_any_such_target_has_zero_gradients() -> None:
    known, frame_blending = references([0.0, 1.0]), trained()
    frame_blending(known, known).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in frame_blending.parameters()), (
        "a gradient, for the other workers"
    )


def test_it_sees_a_neighbourhood_only() -> None:
    known, frame_blending = references([0.5], (8, 32, 32)), trained()
    emptied = known.frames.clone()
    emptied[..., :8] = 0.0
    changed = replace(known, frames=emptied)
    difference = (frame_blending(changed, changed) - frame_blending(known, known)).abs()
    assert (difference[..., :8] > 0).any()
    assert not difference[..., 8 + AROUND + CONVOLUTIONS :].any()


@pytest.mark.parametrize("size", [(1, 16, 16), (2, 16, 16), (16, 16, 16)])
def test_slices_are_few_or_many(size: tuple[int, int, int]) -> None:
    known = references([0.5], size)
    assert trained()(known, known).isfinite().all()


def test_it_learns_to_leave_frames_where_they_were() -> None:
    """The reference has moved the frames by too much; the truth is their mean before warping."""
    torch.manual_seed(1)
    still = references([0.5] * 4)
    moved = replace(still, frames=torch.rand_like(still.frames))
    truth, frame_blending = still.reference, FrameBlending(1)
    optimizer = torch.optim.Adam(frame_blending.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        loss = (frame_blending(still, moved) - truth).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("kind", ["sadm", "regression"])
def test_it_counts_between_two_frames_whatever_else_is_in_the_batch(kind: ModelKind) -> None:
    model, shown = shaken(kind, frame_blending=True), frames(2)
    observed, wanted = torch.tensor([[True, False, True, False]] * 2), torch.tensor([[0.5, 1.0]] * 2)

    def generated() -> torch.Tensor:
        return model.generate(shown, observed, TIMES.expand(2, -1), wanted, [1, 2])

    both = generated()
    alone = model.generate(shown[1:], observed[1:], TIMES, wanted[1:], [2])
    torch.testing.assert_close(both[1:], alone, atol=5e-5, rtol=0)
    assert model.frame_blending is not None
    with torch.no_grad():
        model.frame_blending.layers[-1].bias += 1.0
    moved = (generated()[:, 0] - both[:, 0]).abs().mean()
    if kind == "sadm":  # whose samples are moved frames, which only the denoiser corrects
        assert moved > 1e-3
    else:
        assert moved > 1e-2


@pytest.mark.parametrize("kind", ["sadm", "regression"])
def test_the_estimate_is_the_recalibrated_mean_of_the_predictions(kind: ModelKind) -> None:
    model, observed, time = (
        shaken(kind, frame_blending=True),
        torch.tensor([[True, False, True, False]]),
        torch.tensor([0.5]),
    )
    assert isinstance(model, Sadm | Regression)
    assert model.prior_network is not None
    encoded = model.observe(frames(), observed, TIMES)
    with torch.no_grad():
        context = model.context_at(encoded, time)
        mean = prior_of(model.prior_network, context, model.target).mean
    for gain, recalibration in ((1.0, NOT_CALIBRATED), (1.4, RECALIBRATED)):
        model.recalibration = recalibration
        expected = model.target.decode(gain * mean, context.reference).clamp(*encoded.limits)
        estimate = model.roll_out(encoded, time[:, None], None, SamplingSettings())
        torch.testing.assert_close(estimate[:, 0], expected)


@pytest.mark.parametrize("kind", ["sadm_paper", "diffusion_only", "flow", "gan", "ddm"])
def test_kinds_without_two_frames_have_no_frame_blending(kind: ModelKind) -> None:
    assert made(kind, frame_blending=True).frame_blending is None


class TestMembers:
    """The two members of the prior: the prior network's mean and the prediction of frame blending."""

    LAYOUT = ConditionChannels(decoded=3, references=2, channels=1, patch=(2, 4, 4))

    def context(self) -> tuple[PriorNetwork, TargetContext]:
        torch.manual_seed(0)
        prior_network = PriorNetwork(
            NetworkSettings(widths=(16, 16), blocks=1, heads=2), self.LAYOUT, scale=0.1, motion=True
        )
        for weight in prior_network.unet.leave.parameters():
            torch.nn.init.normal_(weight, std=0.1)
        known = references([0.5, 1.0])
        known = replace(known, blended=known.reference + torch.tensor([0.1, 0.0]).view(2, 1, 1, 1, 1))
        return prior_network, TargetContext(
            self.LAYOUT.pack(torch.randn(2, 3, 4, 4, 4), known, 1.0), known, torch.ones(2)
        )

    def test_between_two_frames_they_are_averaged(self) -> None:
        prior_network, context = self.context()
        own, joined = prior_network(context.condition), prior_of(prior_network, context, TARGET)
        torch.testing.assert_close(joined.mean[0], 0.5 * (own.mean[0] + 1.0))  # 0.1 in units of the scale
        torch.testing.assert_close(joined.mean[1], own.mean[1])
        torch.testing.assert_close(joined.log_variance, own.log_variance)

    def test_guidance_is_of_the_prior_network_alone(self) -> None:
        prior_network, context = self.context()
        own, joined = prior_network(context.condition), prior_of(prior_network, context, TARGET, strength=0.75)
        torch.testing.assert_close(joined.mean[0], 0.5 * (0.75 * own.mean[0] + 1.0))
        torch.testing.assert_close(joined.mean[1], 0.75 * own.mean[1])

    def test_recalibration_multiplies_the_mean_between_two_frames_and_beyond(self) -> None:
        prior_network, context = self.context()
        with torch.no_grad():
            trained = prior_of(prior_network, context, TARGET)
            corrected = prior_of(prior_network, context, TARGET, recalibration=RECALIBRATED)
        torch.testing.assert_close(corrected.mean[0], 1.4 * trained.mean[0])
        torch.testing.assert_close(corrected.mean[1], 0.8 * trained.mean[1], msg="not between two frames")

    def test_each_is_fitted_by_itself(self) -> None:
        x = torch.randn(2, 1, *SIZE)
        own, second = (torch.randn_like(x).requires_grad_() for _ in range(2))
        prior = Prior(0.5 * (own + second), torch.zeros_like(x), (own, second))
        prior.loss(x).sum().backward()
        for blended in (own, second):
            assert blended.grad is not None
            away = blended.detach() - x
            along = (blended.grad * away).flatten(1).sum(dim=1) / away.square().flatten(1).sum(dim=1)
            torch.testing.assert_close(blended.grad, along.view(2, 1, 1, 1, 1) * away)

    def test_without_a_second_nothing_is_added_to_the_loss(self) -> None:
        x = torch.randn(1, 1, *SIZE)
        mean = torch.zeros_like(x)
        torch.testing.assert_close(
            Prior(mean, mean, (mean, torch.zeros_like(x))).loss(x), Prior(mean, mean).loss(x), msg="as the reference is"
        )
