"""The network's output read as a correction to a Gaussian guess at every voxel.

Let the network say of each voxel what it expects of x before it looks at z: a mean μ and a variance s². With
D = α² s² + σ², the posterior mean of that guess is μ + (α s²/D) (z − α μ), and its deviation is σ s/√D. What the
network adds in units of that deviation, −v_net, makes

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

from sadm_ray.diffusion.prediction import Volume
from sadm_ray.diffusion.schedule import alpha_sigma, per_sample

LOG_VARIANCE_RANGE = (-12.0, 6.0)


def gaussian_v(v_net: Volume, mean: Volume, log_variance: Volume, z: Volume, log_snr: Float[Tensor, " b"]) -> Volume:
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
    """(z − α μ) / √D: how far z is from where the guess expects it, in units of what the guess expects of that."""
    alpha, sigma = (per_sample(a, z) for a in alpha_sigma(log_snr))
    variance = log_variance.clamp(*LOG_VARIANCE_RANGE).exp()
    return (z - alpha * mean) / torch.sqrt(alpha**2 * variance + sigma**2)


def expected_loss(variance: Float[Tensor, " b"], log_snr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """E‖v − v̂‖² a voxel, of the best v̂ for an x that is Gaussian with this variance: s² / D."""
    alpha, sigma = alpha_sigma(log_snr)
    return variance / (alpha**2 * variance + sigma**2)
