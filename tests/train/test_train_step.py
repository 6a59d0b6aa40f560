import itertools
from dataclasses import replace

import pytest
import torch

from sadm_ray.config import CovariateSettings, TrainSettings
from sadm_ray.data.load.rng import SampleRng
from sadm_ray.data.load.target_sampling import draw_target
from sadm_ray.train.gradient_guard import GradientGuard
from sadm_ray.train.optimizer import Optimizer
from sadm_ray.train.train_state import ExponentialMovingAverage
from sadm_ray.train.train_step import Batch, learning_rate, sample_losses
from tests.train.runs import SETTINGS, Run, batch, model

GOLDEN = {
    0: [15.40066, 14.79094, 39.21159, 25.25935, 46.01955, 22.52098, 11.64296, 10.90868],
    8: [15.67273, 15.15646, 41.65586, 26.54697, 48.77969, 23.88554, 11.47017, 10.79579],
}
"""By the number of motions in which samples differ from the prior's mean."""


def test_the_average_follows_with_its_warm_up() -> None:
    weight = torch.nn.Linear(1, 1, bias=False)
    average = ExponentialMovingAverage(weight, 0.9)
    values, expected = [2.0, -1.0, 3.0], None
    for count, value in enumerate(values):
        with torch.no_grad():
            weight.weight.fill_(value)
        average.update(weight)
        decay = min(0.9, (1 + count) / (10 + count))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert average.weights[0].item() == pytest.approx(expected)


def test_learning_rate_warms_up_and_ends_at_zero() -> None:
    rates = [learning_rate(step, SETTINGS) for step in range(11)]
    assert rates[:3] == pytest.approx([5e-4, 1e-3, 1e-3])
    assert rates[10] == pytest.approx(0)
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[2:]))


def test_a_constant_rate_does_not_depend_on_the_number_of_steps() -> None:
    shorter, longer = (SETTINGS.model_copy(update={"schedule": "constant", "steps": steps}) for steps in (5, 50))
    assert [learning_rate(step, shorter) for step in range(5)] == [learning_rate(step, longer) for step in range(5)]
    assert learning_rate(49, longer) == SETTINGS.learning_rate


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_norms_and_biases_are_not_decayed(kind: str) -> None:
    still, settings = model(), SETTINGS.model_copy(update={"optimizer": kind, "weight_decay": 0.5})
    before = {name: p.detach().clone() for name, p in still.named_parameters()}
    optimizer = Optimizer(still, settings)
    for p in still.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step(0.1)
    for name, p in still.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] * (1 - 0.1 * 0.5 if p.ndim > 1 else 1))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_muon_steps_equally_far_in_all_directions(layout: torch.memory_format) -> None:
    """Of kernels as matrices of outputs × everything else, however they lie in memory."""
    kernel = torch.nn.Conv3d(4, 6, 3).to(memory_format=layout)
    before = kernel.weight.detach().clone()
    kernel.weight.grad = torch.randn(6, 4, 3, 3, 3, generator=torch.Generator().manual_seed(0)).to(memory_format=layout)
    kernel.bias.grad = torch.zeros_like(kernel.bias)
    Optimizer(kernel, SETTINGS.model_copy(update={"weight_decay": 0.0})).step(1.0)
    lengths = torch.linalg.svdvals((before - kernel.weight.detach()).flatten(1))
    size = 0.2 * (4 * 27) ** 0.5  # so that its elements are about 0.2, as those of AdamW's steps are
    assert 0.6 * size < lengths.min() < lengths.max() < 1.3 * size


@pytest.mark.parametrize("modes", GOLDEN)
def test_golden_losses(modes: int) -> None:
    """A refactoring of the model, the process or the step must reproduce these; a change on purpose restates them."""
    settings = SETTINGS.model_copy(update={"optimizer": "adamw"})  # which spreads rounding less than Muon does
    assert Run(settings, motion_modes=modes).steps(0, 8) == pytest.approx(GOLDEN[modes], rel=2e-4)


def test_compiling_the_denoiser_changes_nothing() -> None:
    plain, compiled = Run(), Run()
    compiled.train_state.bare.denoiser.compile()
    assert compiled.steps(0, 2) == pytest.approx(plain.steps(0, 2), rel=1e-4)


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_smaller_parts_of_the_batch_change_nothing(micro_batch: int) -> None:
    settings = SETTINGS.model_copy(update={"optimizer": "adamw"})  # which spreads rounding less than Muon does
    assert Run(settings).steps(0, 4, micro_batch) == pytest.approx(Run(settings).steps(0, 4), rel=1e-5)


def broken_batch() -> Batch:
    frames = batch().frames.clone()
    frames[1] = torch.nan
    return Batch(frames, batch().present, batch().times)


def test_a_bad_gradient_is_not_used() -> None:
    run = Run()
    run.steps(0, 2)
    before = {name: p.clone() for name, p in run.train_state.bare.named_parameters()}
    averages = [weight.clone() for weight in run.train_state.averages[0.9].weights]
    result = run.step(2, whole=broken_batch())
    assert not result.used
    assert result.losses.isnan().tolist() == [False, True, False, False]
    assert all(torch.equal(p, before[name]) for name, p in run.train_state.bare.named_parameters())
    assert all(map(torch.equal, run.train_state.averages[0.9].weights, averages))
    assert (run.guard.skipped, run.guard.in_a_row) == (1, 1)
    assert run.step(3).used
    assert (run.guard.skipped, run.guard.in_a_row) == (1, 0)


@pytest.mark.parametrize("norm", [float("nan"), float("inf"), 60.0])
def test_the_guard_refuses_bad_gradients(norm: float) -> None:
    guard = GradientGuard(TrainSettings(spike_factor=20))
    assert all(guard.accepts(2.0 + step % 3) for step in range(60))
    other = GradientGuard(TrainSettings(spike_factor=20))
    other.restore(guard.state())
    for each in (guard, other):
        assert not each.accepts(norm)
        assert each.accepts(30.0)
    assert guard.state() == other.state()


def test_no_spike_is_refused_before_the_warm_up_or_without_a_spike_factor() -> None:
    fresh, unlimited = GradientGuard(TrainSettings()), GradientGuard(TrainSettings(spike_factor=None))
    assert fresh.accepts(1.0)
    assert fresh.accepts(1e6)
    assert all(unlimited.accepts(1.0) for _ in range(60))
    assert unlimited.accepts(1e6)


def test_the_planned_covariate_of_the_target_is_trained() -> None:
    """That of a frame which is not the target changes nothing."""
    arm = CovariateSettings(name="arm", of="visit", levels=("A", "B"), planned=True)
    rng = SampleRng(0, 0, range(4), 4)

    def losses(planned: torch.Tensor) -> tuple[list[float], torch.Tensor]:
        run, missing = Run(covariates=(arm,)), torch.full((4, 4, 1), torch.nan)
        bare = run.train_state.bare
        with torch.no_grad():
            for parameter in bare.parameters():
                if not parameter.any():  # else the condition reaches nothing yet
                    parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)) / 10)
        whole = replace(batch(), visit_covariates=missing, planned=planned)
        drawn, _ = sample_losses(run.train_state.model, bare.noise_size((4, 16, 16)), whole, rng, run.settings)
        drawn.sum().backward()
        return drawn.tolist(), bare.conditioner.covariates.visit[0].embed.weight.grad

    target = draw_target(batch().present, rng, SETTINGS.imputation, SETTINGS.single_frame).target
    everywhere, there = torch.ones(4, 4, 1), torch.full((4, 4, 1), torch.nan)
    there[torch.arange(4), target] = 1.0
    treated, gradient = losses(everywhere)
    assert losses(there)[0] == treated
    assert gradient[1].any()
    assert not gradient[0].any()
    assert losses(torch.zeros(4, 4, 1))[0] != treated
