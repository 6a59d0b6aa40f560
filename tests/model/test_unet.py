import torch

from sadm_ray.config import DenoiserSettings, NetworkSettings
from sadm_ray.model.denoiser import Denoiser
from sadm_ray.model.unet import UNet

SETTINGS = NetworkSettings(widths=(16, 16), blocks=1, heads=2)
PATCH = (2, 4, 4)


def test_smooth_channels_are_no_finer_than_the_stem() -> None:
    torch.manual_seed(0)
    unet = UNet(SETTINGS, PATCH, 35, 2, smooth=6)
    for p in unet.parameters():
        torch.nn.init.normal_(p, std=0.3)
    with torch.no_grad():
        result = unet(torch.randn(2, 35, 4, 4, 4))
    assert result.shape == (2, 8, 8, 16, 16)
    sharp, smooth = result.split([2, 6], dim=1)
    between = slice(2, 6)  # from one site's middle, at 1.5 voxels, to the next, at 5.5, a straight line leads
    for channels, straight in ((sharp, False), (smooth, True)):
        bend = channels[..., between].diff(n=2, dim=-1).abs().amax() / channels.abs().amax()
        assert (bend < 1e-5) == straight


def test_untrained_the_output_is_zero() -> None:
    assert not UNet(SETTINGS, PATCH, 3, 1, smooth=3)(torch.randn(1, 3, 2, 2, 2)).any()
    denoiser = Denoiser(DenoiserSettings(patch=PATCH, widths=(16, 16), heads=2), 1, 3)
    assert not denoiser(torch.randn(1, 1, 4, 8, 8), torch.zeros(1), torch.randn(1, 3, 2, 2, 2)).any()
