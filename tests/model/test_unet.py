import torch

from sadm_ray.config import DenoiserSettings, NetworkSettings
from sadm_ray.model.denoiser import Denoiser
from sadm_ray.model.resizing import resized
from sadm_ray.model.unet import SmoothOutputs, UNet

SETTINGS = NetworkSettings(widths=(16, 16), blocks=1, heads=2)
PATCH = (2, 4, 4)


def test_smooth_channels_are_no_finer_than_the_stem() -> None:
    torch.manual_seed(0)
    unet, outputs = UNet(SETTINGS, PATCH, 35, 2), SmoothOutputs(SETTINGS.widths, 6)
    for p in (*unet.parameters(), *outputs.parameters()):
        torch.nn.init.normal_(p, std=0.3)
    with torch.no_grad():
        sharp, features = unet(torch.randn(2, 35, 4, 4, 4))
        smooth = outputs(features)
    assert sharp.shape == (2, 2, 8, 16, 16)
    assert smooth.shape == (2, 6, 4, 4, 4)
    smooth = resized(smooth, sharp.shape[-3:])
    between = slice(2, 6)  # from one site's middle, at 1.5 voxels, to the next, at 5.5, a straight line leads
    for channels, straight in ((sharp, False), (smooth, True)):
        bend = channels[..., between].diff(n=2, dim=-1).abs().amax() / channels.abs().amax()
        assert (bend < 1e-5) == straight


def test_untrained_the_output_is_zero() -> None:
    sharp, features = UNet(SETTINGS, PATCH, 3, 1)(torch.randn(1, 3, 2, 2, 2))
    assert not sharp.any()
    assert not SmoothOutputs(SETTINGS.widths, 3)(features).any()
    denoiser = Denoiser(DenoiserSettings(patch=PATCH, widths=(16, 16), heads=2), 1, 3)
    assert not denoiser(torch.randn(1, 1, 4, 8, 8), torch.zeros(1), torch.randn(1, 3, 2, 2, 2)).any()
