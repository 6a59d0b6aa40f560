"""What the model promises, whatever its weights are."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sadm_ray.config import ConditionerSettings, DenoiserSettings, ModelSettings, NetworkSettings, SamplingSettings
from sadm_ray.data.load.rng import SampleRng
from sadm_ray.diffusion.reference_frames import ReferenceFrames
from sadm_ray.errors import DataError
from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.model.pretrained import load_model
from sadm_ray.model.registry import build_model

SHAPE = (4, 16, 16)


def small(target: str = "motion", reference: str = "registered", **diffusion: str) -> SequenceModel:
    """A small model whose every layer matters: the ones that start at zero are made random."""
    torch.manual_seed(0)
    # To predict every voxel by itself, a site has to carry more channels than the patch has voxels.
    network = {"widths": (16 if target == "motion" else 64, 32), "blocks": 1}
    settings = ModelSettings(
        target=target,
        reference=reference,
        difference_scale=0.1,
        prior=None if target == "volume" or "prediction" in diffusion else NetworkSettings(**network),
        conditioner=ConditionerSettings(widths=(16, 32), layers=2, channels=8),
        denoiser=DenoiserSettings(patch=(2, 4, 4), **network),
    )
    model = build_model(ModelConfig(shape=SHAPE, model=settings, diffusion=diffusion))
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return model


@pytest.fixture
def sequences() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    frames = torch.rand(3, 5, 1, *SHAPE, generator=generator)
    observed = torch.tensor([[1, 0, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 0, 1]], dtype=torch.bool)
    times = torch.tensor([0.0, 0.2, 0.45, 0.7, 1.0]).expand(3, 5).clone()
    return {"frames": frames, "observed": observed, "times": times}


def loss(model: SequenceModel, sequences: dict[str, Tensor]) -> Tensor:
    target = torch.rand(3, 1, *SHAPE, generator=torch.Generator().manual_seed(2))
    eps = torch.randn(3, *model.noise_size(SHAPE), generator=torch.Generator().manual_seed(3))
    known = {"target_time": torch.full((3,), 0.8), "t": torch.tensor([0.1, 0.5, 0.9]), "eps": eps}
    return model(**sequences, target=target, **known)


@pytest.mark.parametrize("target", ["motion", "difference", "volume"])
@pytest.mark.parametrize("junk", [torch.nan, torch.inf, 7.0])
def test_what_stands_in_an_absent_frame_changes_no_bit(sequences: dict[str, Tensor], target: str, junk: float) -> None:
    model = small(target)
    soiled = {key: value.clone() for key, value in sequences.items()}
    soiled["frames"][~soiled["observed"]] = junk
    soiled["times"][~soiled["observed"]] = junk
    results = []
    for each in (sequences, soiled):
        model.zero_grad()
        value = loss(model, each)
        value.mean().backward()
        generated = model.generate(**each, target_times=torch.tensor([[0.7, 1.1]] * 3), seeds=[1, 2, 3])
        results.append([value, generated, *(parameter.grad for parameter in model.parameters())])
    assert torch.isfinite(results[0][0]).all()
    for clean, same in zip(*results, strict=True):
        assert torch.equal(clean, same)


def test_order_and_padding_of_the_frames_do_not_matter(sequences: dict[str, Tensor]) -> None:
    model = small()
    order = torch.tensor([3, 0, 4, 2, 1])
    permuted = {key: value[:, order] for key, value in sequences.items()}
    padded = {key: torch.cat([value, torch.zeros_like(value[:, :2])], dim=1) for key, value in sequences.items()}
    wanted = {"target_times": torch.tensor([[0.7, 1.1]] * 3), "seeds": [1, 2, 3]}
    expected = model.generate(**sequences, **wanted)
    for other in (permuted, padded):
        torch.testing.assert_close(model.generate(**other, **wanted), expected, atol=1e-5, rtol=0)


def test_a_masked_frame_is_not_a_black_one(sequences: dict[str, Tensor]) -> None:
    model = small()
    black = {key: value.clone() for key, value in sequences.items()}
    black["frames"][:, 3] = 0.0
    black["observed"][:, 3] = True
    wanted = {"target_times": torch.tensor([[1.1]] * 3), "seeds": [1, 2, 3]}
    assert not torch.allclose(model.generate(**sequences, **wanted), model.generate(**black, **wanted), atol=1e-4)


def test_times_matter(sequences: dict[str, Tensor]) -> None:
    model = small()
    wanted = {"target_times": torch.tensor([[1.1]] * 3), "seeds": [1, 2, 3]}
    later = {**sequences, "times": sequences["times"] * 0.8}
    assert not torch.allclose(model.generate(**sequences, **wanted), model.generate(**later, **wanted), atol=1e-4)


@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_a_sample_does_not_depend_on_its_batch_mates(sequences: dict[str, Tensor], sampler: str) -> None:
    model, sampling = small(), SamplingSettings(sampler=sampler, num_steps=3, guidance_scale=0.5)
    wanted = torch.tensor([[0.7, 1.1]] * 3)
    batch = model.generate(**sequences, target_times=wanted, seeds=[5, 6, 7], sampling=sampling)
    for row in range(3):
        alone = {key: value[[row]] for key, value in sequences.items()}
        volume = model.generate(**alone, target_times=wanted[[row]], seeds=[5 + row], sampling=sampling)
        torch.testing.assert_close(volume[0], batch[row], atol=3e-5, rtol=0)


def test_a_rollout_encodes_each_frame_once(sequences: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    model, encoded = small(), []
    encoder = model.conditioner.encoder.forward
    monkeypatch.setattr(
        model.conditioner.encoder, "forward", lambda volumes: (encoded.append(len(volumes)), encoder(volumes))[1]
    )
    model.generate(**sequences, target_times=torch.tensor([[0.7, 1.1, 1.2]] * 3), seeds=[1, 2, 3])
    assert encoded == [int(sequences["observed"].sum()), 3, 3]  # the last one is not needed


def test_a_rollout_equals_generating_step_by_step(sequences: dict[str, Tensor]) -> None:
    """The cache of encodings changes nothing: the second frame is what a fresh call would give for it."""
    model, sampling = small(), SamplingSettings(num_steps=1)  # one draw a frame, so that the seeds can be matched
    rolled = model.generate(**sequences, target_times=torch.tensor([[1.1]] * 3), seeds=[1, 2, 3], sampling=sampling)
    both = model.generate(**sequences, target_times=torch.tensor([[1.1, 1.3]] * 3), seeds=[1, 2, 3], sampling=sampling)
    torch.testing.assert_close(both[:, 0], rolled[:, 0], atol=1e-5, rtol=0)
    present = torch.ones(3, 1, dtype=torch.bool)
    frames = torch.cat([sequences["frames"], rolled], dim=1)
    observed = torch.cat([sequences["observed"], present], dim=1)
    times = torch.cat([sequences["times"], torch.full((3, 1), 1.1)], dim=1)
    references = ReferenceFrames(
        rolled.expand(-1, 2, -1, -1, -1, -1), torch.full((3, 2), -0.2), torch.full((3, 2), 0.5)
    )
    rest = (observed, times, torch.full((3,), 1.3), references)
    fresh = model.conditioner(model.conditioner.encode(frames, observed), *rest)
    cached, new = model.conditioner.encode(**without_times(sequences)), model.conditioner.encode(rolled, present)
    joined = model.conditioner([torch.cat(pair, dim=1) for pair in zip(cached, new, strict=True)], *rest)
    torch.testing.assert_close(fresh, joined, atol=1e-5, rtol=0)


def test_reference_frames_are_scans_never_generated_frames(
    sequences: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, contexts = small(reference="neighbours"), []
    draw = model.draw
    monkeypatch.setattr(model, "draw", lambda known, *rest: (contexts.append(known), draw(known, *rest))[1])
    model.generate(**sequences, target_times=torch.tensor([[1.1, 0.6, 1.3]] * 3), seeds=[1, 2, 3])
    assert len(contexts) == 3
    for known in contexts:
        for references, frames, observed in zip(
            known.references.frames, sequences["frames"], sequences["observed"], strict=True
        ):
            assert all(any(torch.equal(each, frame) for frame in frames[observed]) for each in references)


def without_times(sequences: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in sequences.items() if key != "times"}


def test_gradients_reach_every_parameter(sequences: dict[str, Tensor]) -> None:
    model = small()
    loss(model, sequences).mean().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.long
@pytest.mark.parametrize(
    ("target", "diffusion", "steps"),
    [("motion", {}, 300), ("difference", {"prediction": "x"}, 160), ("volume", {"prediction": "x"}, 260)],
)
def test_one_subject_can_be_learned_by_heart(target: str, diffusion: dict[str, str], steps: int) -> None:
    torch.manual_seed(0)
    grid = torch.stack(torch.meshgrid(*(torch.linspace(-1, 1, n) for n in SHAPE), indexing="ij")).square().sum(0)
    frames = torch.stack([torch.sigmoid(8 * (1.0 - 0.2 * t - grid)) for t in range(4)])
    frames = frames[None, :, None].repeat(4, 1, 1, 1, 1, 1)
    times = torch.linspace(0, 1, 4).expand(4, 4)
    observed = torch.tensor([True, True, False, False]).expand(4, 4)
    model = small(target, **diffusion)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    for step in range(steps):
        rng = SampleRng(0, step, range(4), 4)
        drawn = rng.stratified("t"), rng.normal("eps", model.noise_size(frames.shape[-3:]))
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / steps)
        model(frames, observed, times, frames[:, 3], times[:, 3], *drawn).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    # Where nothing is left to chance, DDIM needs the fewest steps.
    sampling = SamplingSettings(sampler="ddim", num_steps=4)
    drawn = model.generate(frames[:1], observed[:1], times[:1], times[:1, 3:], [0], sampling)
    psnr, copied = (
        -10 * torch.log10((volume - frames[0, 3]).square().mean()).item() for volume in (drawn[0, 0], frames[0, 1])
    )
    assert copied < 25
    assert psnr > 35, f"{psnr:.1f} dB"


def test_pretrained_comes_back_equal(sequences: dict[str, Tensor], tmp_path: Path) -> None:
    model = small()
    model.save_pretrained(tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert again.config == model.config
    wanted = {"target_times": torch.tensor([[1.1]] * 3), "seeds": [1, 2, 3]}
    assert torch.equal(again.generate(**sequences, **wanted), model.eval().generate(**sequences, **wanted))


def test_a_missing_or_damaged_model_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no trained model here"):
        load_model(tmp_path)
    small().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"model\.safetensors: cannot be read"):
        load_model(tmp_path)


def test_a_sequence_without_observed_frames_is_refused(sequences: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="at least one observed"):
        small().generate(
            sequences["frames"], torch.zeros_like(sequences["observed"]), sequences["times"],
            torch.ones(3, 1), [1, 2, 3],
        )  # fmt: skip


def test_a_size_that_does_not_fit_is_refused_or_padded_by_setting(sequences: dict[str, Tensor]) -> None:
    cropped = {**sequences, "frames": sequences["frames"][..., :3, :14, :15]}
    wanted = {"target_times": torch.tensor([[0.7, 1.1]] * 3), "seeds": [1, 2, 3]}
    with pytest.raises(ValueError, match=r"\(3, 14, 15\).* set model\.pad=true"):
        small().generate(**cropped, **wanted)
    config = small().config
    padding = config.model_copy(update={"model": config.model.model_copy(update={"pad": True})})
    model = build_model(padding)
    model.load_state_dict(small().state_dict())
    assert model.generate(**cropped, **wanted).shape == (3, 2, 1, 3, 14, 15)
    torch.testing.assert_close(  # where nothing has to be padded, nothing changes
        model.generate(**sequences, **wanted), small().generate(**sequences, **wanted)
    )
    eps = torch.randn(3, *model.noise_size((3, 14, 15)))
    loss = model(**cropped, target=torch.rand(3, 1, 3, 14, 15), target_time=torch.ones(3), t=torch.rand(3), eps=eps)
    assert torch.isfinite(loss).all()


@pytest.mark.parametrize("shape", [(2, 8, 12), (6, 20, 16)])
@pytest.mark.parametrize("count", [1, 9])
def test_any_number_of_frames_and_any_size_that_the_patch_divides(shape: tuple[int, int, int], count: int) -> None:
    frames, observed = torch.rand(2, count, 1, *shape), torch.ones(2, count, dtype=torch.bool)
    times = torch.linspace(0, 1, count).expand(2, count)
    assert small().generate(frames, observed, times, torch.tensor([[1.5]] * 2), [0, 1]).shape == (2, 1, 1, *shape)


def test_the_conditioner_may_have_a_coarser_stem_than_the_denoiser(sequences: dict[str, Tensor]) -> None:
    model = small()
    settings = model.config.model
    coarse = settings.conditioner.model_copy(update={"patch": (4, 8, 8)})
    config = model.config.model_copy(update={"model": settings.model_copy(update={"conditioner": coarse})})
    assert config.model.patch == (4, 8, 8)
    assert torch.isfinite(loss(build_model(config), sequences)).all()


def test_recomputing_activations_changes_nothing_but_the_memory(sequences: dict[str, Tensor]) -> None:
    gradients = []
    for wanted in (False, True):
        model = small()
        model.recompute_activations(wanted)
        loss(model, sequences).mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for kept, computed in zip(*gradients, strict=True):
        assert torch.equal(kept, computed)


@pytest.mark.parametrize("target", ["motion", "volume"])
def test_bfloat16_is_near_float32(sequences: dict[str, Tensor], target: str) -> None:
    model = small(target)
    wanted = {"target_times": torch.tensor([[0.7, 1.1]] * 3), "seeds": [1, 2, 3]}
    exact, rough = (
        model.generate(**sequences, **wanted, sampling=SamplingSettings(num_steps=2, precision=precision))
        for precision in ("float32", "bfloat16")
    )
    assert rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    assert (exact - rough).abs().mean() < 0.02
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(model, sequences)
    torch.testing.assert_close(value, loss(model, sequences), rtol=0.1, atol=0.05)
