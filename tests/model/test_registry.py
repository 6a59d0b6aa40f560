"""Every kind of model has the behaviour that the pipelines need, and is what its name says."""

from pathlib import Path
from typing import get_args

import pytest
import torch

from sadm_ray.config import (
    ConditionerSettings,
    CovariateSettings,
    DenoiserSettings,
    DiffusionSettings,
    ModelKind,
    ModelSettings,
    NetworkSettings,
    SamplingSettings,
)
from sadm_ray.diffusion.reference_frames import ReferenceFrames
from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.baselines.deformable_diffusion import DeformableDiffusion, local_correlation, roughness
from sadm_ray.model.baselines.gan import Gan
from sadm_ray.model.displacement_field import warp
from sadm_ray.model.encoded_sequence import TargetContext
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.model.pretrained import load_model
from sadm_ray.model.registry import KINDS, build_model
from sadm_ray.model.sadm import Sadm
from tests.model.test_sadm import SHAPE

ALL = sorted(KINDS)
TIMES = torch.tensor([[0.0, 0.4, 0.7, 1.0]])
SEEN = torch.tensor([[True, True, False, False]])


def made(kind: ModelKind, seed: int = 0, **settings: object) -> SequenceModel:
    torch.manual_seed(seed)
    conditioner = ConditionerSettings(widths=(8, 16), heads=2, layers=1, channels=8)
    network = {"widths": (16, 32), "blocks": 1, "heads": 2}
    networks = {"prior": NetworkSettings(**network), "denoiser": DenoiserSettings(patch=(2, 4, 4), **network)}
    model = ModelSettings(kind=kind, conditioner=conditioner, difference_scale=0.1, **{**networks, **settings})
    return build_model(ModelConfig(shape=SHAPE, model=model))


def shaken(kind: ModelKind, **settings: object) -> SequenceModel:
    """With other weights than the zeros that layers begin at, as after training."""
    model = made(kind, **settings).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model


def frames(batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 4, 1, *SHAPE, generator=torch.Generator().manual_seed(3))


def losses(model: SequenceModel, shown: torch.Tensor, unconditional: torch.Tensor | None = None) -> torch.Tensor:
    b = len(shown)
    noise = torch.randn(b, *model.noise_size(SHAPE), generator=torch.Generator().manual_seed(1))
    rows = (SEEN.expand(b, -1), TIMES.expand(b, -1), shown[:, 3], torch.ones(b), torch.linspace(0.2, 0.8, b), noise)
    return model(shown, *rows, unconditional)


def drawn(model: SequenceModel, shown: torch.Tensor, seed: int = 0, **sampling: object) -> torch.Tensor:
    return model.generate(shown, SEEN, TIMES, torch.tensor([[0.7, 1.0]]), [seed], SamplingSettings(**sampling))


def test_every_kind_of_the_settings_is_built() -> None:
    assert set(get_args(ModelKind)) == set(KINDS)


@pytest.mark.parametrize("kind", ALL)
def test_what_is_not_observed_cannot_matter(kind: ModelKind) -> None:
    model, shown = shaken(kind), frames()
    hidden = shown.clone()
    hidden[:, 2:] = torch.nan
    assert torch.equal(drawn(model, shown), drawn(model, hidden))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("num_steps", [1, 4])
def test_volumes_are_in_range_and_the_seed_decides(kind: ModelKind, num_steps: int) -> None:
    model, shown = shaken(kind), frames()
    one, again, other = (drawn(model, shown, seed, num_steps=num_steps) for seed in (0, 0, 1))
    assert one.shape == (1, 2, 1, *SHAPE)
    assert one.min() >= 0
    assert one.max() <= 1
    assert torch.equal(one, again)
    assert torch.equal(one, other) != model.varies(SamplingSettings(num_steps=num_steps))


@pytest.mark.parametrize("kind", ALL)
def test_the_target_time_matters(kind: ModelKind) -> None:
    model, shown = shaken(kind), frames()
    early, late = (
        model.generate(shown, SEEN, TIMES, torch.tensor([[time]]), [0], SamplingSettings()) for time in (0.5, 1.0)
    )
    assert not torch.equal(early, late)


@pytest.mark.parametrize(("kind", "uses"), [("sadm", True), ("flow", True), ("sadm_paper", True), ("regression", True),
                                             ("diffusion_only", False), ("gan", False), ("ddm", False)])  # fmt: skip
def test_which_kinds_use_the_sequence(kind: ModelKind, uses: bool) -> None:
    model, shown = shaken(kind), frames()
    other = shown.clone()
    other[:, 0] = torch.rand(1, 1, *SHAPE)
    assert torch.equal(drawn(model, shown)[:, 0], drawn(model, other)[:, 0]) != uses


@pytest.mark.parametrize("kind", ALL)
def test_the_loss_falls_and_reaches_every_weight(kind: ModelKind) -> None:
    model, shown = made(kind), frames(2)
    shown[:, 3] = 0.8 * shown[:, 1]
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    seen = []
    for _ in range(25):
        loss = losses(model, shown).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert min(seen[-5:]) < 0.9 * seen[0], seen
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert not without, without  # DDP waits for each of them


@pytest.mark.parametrize("kind", ALL)
def test_a_sample_does_not_depend_on_its_batch(kind: ModelKind) -> None:
    model, shown = shaken(kind), frames(2)
    both, t = losses(model, shown), torch.linspace(0.2, 0.8, 2)
    noise = torch.randn(2, *model.noise_size(SHAPE), generator=torch.Generator().manual_seed(1))
    alone = model(shown[1:], SEEN, TIMES, shown[1:, 3], torch.ones(1), t[1:], noise[1:])
    assert torch.allclose(both[1:], alone, atol=1e-5)


@pytest.mark.parametrize("kind", ALL)
def test_only_guided_kinds_train_without_condition(kind: ModelKind) -> None:
    model, shown = shaken(kind), frames(2)
    same = torch.equal(losses(model, shown), losses(model, shown, torch.tensor([True, True])))
    assert same != model.is_guided


@pytest.mark.parametrize("kind", ALL)
def test_saved_and_loaded(kind: ModelKind, tmp_path: Path) -> None:
    model, shown = shaken(kind), frames()
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert type(loaded) is type(model)
    assert loaded.config == model.config
    assert torch.equal(drawn(model, shown), drawn(loaded, shown))
    counted = [value for key, value in loaded.describe().items() if key.endswith("_parameters")]
    assert sum(counted) == loaded.describe()["parameters"]


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("interval", [None, (-3.0, 3.0), (-20.0, 0.0), (50.0, 60.0)])
@pytest.mark.parametrize("spacing", ["time", "log_snr", "karras"])
@pytest.mark.parametrize(("sampler", "scale"), [("ancestral", 0.0), ("ancestral", 0.5), ("ddim", 0.5), ("dpm++", 0.5)])
def test_the_calls_are_those_that_the_network_gets(
    kind: ModelKind,
    interval: tuple[float, float] | None,
    spacing: str,
    sampler: str,
    scale: float,
) -> None:
    model, calls = made(kind), []
    model.networks()[0].register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    if isinstance(model, Sadm) and model.prior_network is not None:
        model.prior_network.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    sampling = SamplingSettings(
        num_steps=5, sampler=sampler, spacing=spacing, guidance_scale=scale, guidance_interval=interval
    )
    model.generate(frames(), SEEN, TIMES, torch.tensor([[1.0]]), [0], sampling)
    assert sum(calls) == model.network_calls(sampling)


@pytest.mark.parametrize("kind", ["sadm", "diffusion_only"])
def test_guidance_applies_to_the_prior(kind: ModelKind) -> None:
    model = shaken(kind)
    assert isinstance(model, Sadm)
    assert model.prior_network is not None
    condition = torch.randn(1, model.conditioner.layout.width, 2, 4, 4, generator=torch.Generator().manual_seed(4))
    context = TargetContext(
        condition, ReferenceFrames(frames()[:, :2], torch.zeros(1, 2), torch.tensor([[0.5, 0.5]])), torch.zeros(1)
    )
    z, noisy = torch.randn(1, 1, *SHAPE, generator=torch.Generator().manual_seed(5)), model.schedule.noisiest

    def guided(log_snr: float, **sampling: object) -> torch.Tensor:
        with torch.no_grad():
            prior = model._guided_prior(context, SamplingSettings(**sampling))
            assert prior is not None
            return model._correcting(context, prior)(z, log_snr)

    plain = guided(noisy)
    assert plain.abs().max() > 1e-3
    torch.testing.assert_close(guided(noisy, guidance_scale=-0.25), 0.75 * plain)
    torch.testing.assert_close(guided(noisy, guidance_scale=0.5), 1.5 * plain)
    torch.testing.assert_close(guided(noisy, guidance_scale=0.5, guidance_interval=(-3, 3)), plain)
    with torch.no_grad():  # then the denoiser gets half the prior's mean as condition, and its output is not guided
        prior = model.prior_network(condition)
        halved = model._with_prior(condition, prior._replace(mean=0.5 * prior.mean))
        torch.testing.assert_close(guided(0.0, guidance_scale=-0.5), model._denoise(z, 0.0, halved))


@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_at_low_temperature_samples_lie_nearer_together(sampler: str) -> None:
    model, shown = shaken("sadm", motion_modes=0), frames()  # what a motion changes is not proportional to it

    def spread(temperature: float) -> float:
        sampling = SamplingSettings(sampler=sampler, num_steps=3, temperature=temperature)
        return float(model.generate(shown, SEEN, TIMES, torch.tensor([[1.0]]), range(8), sampling).std(dim=0).mean())

    assert spread(0.25) < 0.5 * spread(1.0)


@pytest.mark.parametrize("kind", ["sadm", "diffusion_only"])
@pytest.mark.parametrize("spacing", ["time", "log_snr", "karras"])
def test_at_pure_noise_the_priors_mean_is_the_result(kind: ModelKind, spacing: str) -> None:
    model, evaluated = shaken(kind), []
    model.networks()[0].register_forward_hook(lambda _, inputs, __: evaluated.append(inputs[1]))
    drawn(model, frames(), num_steps=1, spacing=spacing)
    assert not evaluated
    drawn(model, frames(), num_steps=2, spacing=spacing)
    assert evaluated


def test_the_paper_is_conditioned_on_the_sequence_alone() -> None:
    """The condition has no voxels of the source, and the volume itself is predicted."""
    model = made("sadm_paper", target="motion")
    assert (model.config.model.target, model.config.model.prior) == ("volume", None)
    assert model.config.diffusion == DiffusionSettings(schedule="cosine", shift=0.0, prediction="x")
    assert model.conditioner.layout.width == 8
    assert made("sadm").conditioner.layout.width == 8 + 2 * (2 + 2 * 4 * 4) + 3, "time, weight, voxels; displacement"


def test_an_untrained_baseline_copies_the_source() -> None:
    shown = frames()
    for kind in ("gan", "flow", "ddm"):
        copied = drawn(made(kind), shown)[:, 0]
        assert torch.allclose(copied, shown[:, 1], atol=1e-5), kind


def test_the_discriminator_and_the_generator_have_each_their_own_loss() -> None:
    model, shown = shaken("gan"), frames(2)
    assert isinstance(model, Gan)
    target = shown[:, 3]
    for p in model.discriminator.parameters():
        p.requires_grad_(False)
    losses(model, shown).sum().backward()
    generator = [p.grad.clone() for p in model.generator.parameters() if p.grad is not None]
    model.zero_grad()
    for p in model.discriminator.parameters():
        p.requires_grad_(True)
    losses(model, shown).sum().backward()
    both = [p.grad for p in model.generator.parameters() if p.grad is not None]
    assert all(torch.allclose(one, other) for one, other in zip(generator, both, strict=True))
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.discriminator.parameters() if p.ndim > 1)
    # One step for the discriminator: it separates the true target better from the generated one.
    encoded = model.observe(shown, SEEN.expand(2, -1), TIMES.expand(2, -1))
    context = model.context_at(encoded, torch.ones(2))
    real, fake = model.target.encode(target, context.reference), model._generated(context).detach()

    def margin() -> float:
        judged = [model.discriminator(each, context.condition).mean() for each in (real, fake)]
        return (judged[0] - judged[1]).item()

    before = margin()
    with torch.no_grad():
        for p in model.discriminator.parameters():
            p.sub_(100.0 * p.grad)  # a long step: the loss has a small weight
    assert margin() > before


def test_the_deformation_of_a_code_of_zeros_moves_nothing() -> None:
    """Scaled to nothing, the code is of the source itself (Kim & Ye, section 2)."""
    model = shaken("ddm")
    assert isinstance(model, DeformableDiffusion)
    source = torch.rand(2, 1, *SHAPE)
    field = model.deformation(source, torch.zeros_like(source))
    assert torch.equal(field, torch.zeros_like(field))
    assert torch.allclose(warp(source, field), source, atol=1e-6)
    assert model.deformation(source, torch.randn_like(source)).abs().sum() > 0


def test_local_correlation_is_blind_to_brightness() -> None:
    one = torch.rand(2, 1, 8, 16, 16)
    assert torch.allclose(local_correlation(one, 0.5 * one + 0.2), torch.ones(2), atol=0.01)
    assert (local_correlation(one, torch.rand_like(one)) < 0.2).all()


def test_roughness_of_a_slope() -> None:
    field = torch.zeros(1, 3, 4, 4, 4)
    assert roughness(field).item() == 0.0
    field[:, 0] = 2.0 * torch.arange(4.0)[:, None, None]
    assert roughness(field).item() == pytest.approx(4.0 / 9.0)  # one of three displacements along one of three axes


@pytest.mark.parametrize("kind", ALL)
def test_times_may_be_in_double_precision(kind: ModelKind) -> None:
    """As rows hold them."""
    model, wanted, sampling = shaken(kind), torch.tensor([[0.7, 1.0]]), SamplingSettings(num_steps=2)
    single = model.generate(frames(), SEEN, TIMES, wanted, [0], sampling)
    double = model.generate(frames(), SEEN, TIMES.double(), wanted.double(), [0], sampling)
    assert double.dtype == torch.float32
    torch.testing.assert_close(double, single)


@pytest.mark.parametrize("kind", ALL)
def test_another_treatment_is_another_volume_or_cannot_be_asked_for(kind: ModelKind) -> None:
    arm = CovariateSettings(name="arm", of="visit", levels=("A", "B"), planned=True)
    model = shaken(kind, covariates=(arm,))
    a, b = (
        model.generate(
            frames(), SEEN, TIMES, torch.tensor([[1.0]]), [0], SamplingSettings(num_steps=2),
            target_covariates=torch.tensor([[[level]]]),
        )
        for level in (0.0, 1.0)
    )  # fmt: skip
    assert model.config.model.covariates[0].planned == (not torch.equal(a, b))
