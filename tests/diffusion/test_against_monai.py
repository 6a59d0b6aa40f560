"""At the noise levels of a discrete DDPM, our steps are those of MONAI's schedulers."""

import pytest
import torch

from sadm_ray.diffusion.parameterization import to_x
from sadm_ray.diffusion.samplers import ancestral_step, ddim_step

schedulers = pytest.importorskip("monai.networks.schedulers")

TIMESTEPS, STEPS = 1000, 20
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x"}


def network(z: torch.Tensor) -> torch.Tensor:
    """Some function of z; both sides take it as a prediction of the same kind."""
    return torch.tanh(0.7 * z) + 0.1 * z.roll(1, -1)


def log_snr(scheduler: torch.nn.Module, timestep: int) -> float:
    """λ of a timestep; the step that ends at −1 ends without noise, for which λ = 40 stands."""
    return 40.0 if timestep < 0 else torch.logit(scheduler.alphas_cumprod[timestep].double()).item()


def x_hat(z: torch.Tensor, kind: str, level: float) -> torch.Tensor:
    return to_x(network(z).double(), PREDICTIONS[kind], z.double(), torch.tensor([level], dtype=torch.float64)).float()


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("schedule", ["linear_beta", "scaled_linear_beta", "cosine"])
def test_ddim(kind: str, schedule: str) -> None:
    scheduler = schedulers.DDIMScheduler(TIMESTEPS, schedule, clip_sample=False, prediction_type=kind)
    scheduler.set_timesteps(STEPS)
    ours = theirs = torch.randn(1, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    for timestep in scheduler.timesteps.tolist():
        level, following = (log_snr(scheduler, step) for step in (timestep, timestep - TIMESTEPS // STEPS))
        theirs = scheduler.step(network(theirs), timestep, theirs)[0]
        ours = ddim_step(ours, x_hat(ours, kind, level), level, following)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize(("variance", "stochasticity"), [("fixed_small", 0.0), ("fixed_large", 1.0)])
def test_ddpm(kind: str, variance: str, stochasticity: float) -> None:
    scheduler = schedulers.DDPMScheduler(
        TIMESTEPS, "linear_beta", variance_type=variance, clip_sample=False, prediction_type=kind
    )
    ours = theirs = torch.randn(1, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    for timestep in range(TIMESTEPS - 1, 900, -1):
        level, following = log_snr(scheduler, timestep), log_snr(scheduler, timestep - 1)
        theirs = scheduler.step(network(theirs), timestep, theirs, generator=torch.Generator().manual_seed(timestep))[0]
        eps = torch.randn(ours.shape, generator=torch.Generator().manual_seed(timestep))
        ours = ancestral_step(ours, x_hat(ours, kind, level), level, following, eps, stochasticity)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
