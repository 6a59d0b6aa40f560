"""Preconditioning: the network's output is a correction to a Gaussian prior at every voxel.

Let the prior of x have mean μ and variance s² at each voxel, before z is seen. With D = α² s² + σ², the posterior mean
under it is μ + (α s²/D) (z − α μ), and the posterior deviation σ s/√D. The network's output −v_net, in units of that
deviation, is added:

    x̂ = μ + (α s²/D) (z − α μ) − (σ s/√D) v_net.

With s = 1 this is x̂ = α z − σ v_net + σ² μ: plain v-prediction, moved by the mean. With s constant it is the
preconditioning of EDM (Karras et al., 2022) for data of deviation s; here s is learned voxel by voxel, because in a
scan nearly everything keeps still: there s goes to nothing, x̂ ignores the noise in z, and the network need not learn
to carry z through all its layers only to subtract it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sadm_ray.diffusion.noise_schedule import alpha_sigma, per_sample
from sadm_ray.diffusion.parameterization import Volume

LOG_VARIANCE_RANGE = (-12.0, 6.0)


def preconditioned_v(
    v_net: Volume, mean: Volume, log_variance: Volume, z: Volume, log_snr: Float[Tensor, " b"]
) -> Volume:
    """v̂ = (α z − x̂) / σ of the x̂ above, in a form that is finite at both ends of the schedule.

    Args:
        v_net: what the network adds.
        mean: μ.
        log_variance: log s².
    """
    alpha, sigma = (per_sample(a, z) for a in alpha_sigma(log_snr))
    variance = log_variance.clamp(*LOG_VARIANCE_RANGE).exp()
    total = alpha**2 * variance + sigma**2
    return torch.sqrt(variance / total) * v_net + sigma * (alpha * (1 - variance) * z - mean) / total


def standardised(z: Volume, mean: Volume, log_variance: Volume, log_snr: Float[Tensor, " b"]) -> Volume:
    """(z − α μ) / √D: z standardised by its distribution under the prior."""
    alpha, sigma = (per_sample(a, z) for a in alpha_sigma(log_snr))
    variance = log_variance.clamp(*LOG_VARIANCE_RANGE).exp()
    return (z - alpha * mean) / torch.sqrt(alpha**2 * variance + sigma**2)


def expected_loss(variance: Float[Tensor, " b"], log_snr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """E‖v − v̂‖² a voxel, of the best v̂ for an x that is Gaussian with this variance: s² / D."""
    alpha, sigma = alpha_sigma(log_snr)
    return variance / (alpha**2 * variance + sigma**2)
