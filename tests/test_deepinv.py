"""Denoisers of the zoo in deepinv's plug-and-play algorithms."""

import pytest
import torch

import csc_nets

deepinv = pytest.importorskip("deepinv", reason="needs the package deepinv", exc_type=ImportError)


def photograph():
    """A part of an embedded photograph, grey, ``(1, 1, 64, 64)``."""
    from sklearn.datasets import load_sample_image

    grey = torch.from_numpy(load_sample_image("china.jpg")).float().mean(-1) / 255
    return grey[60:188:2, 200:328:2][None, None]


def psnr(image, truth):
    return -10 * (image - truth).square().mean().log10().item()


def plug_and_play(denoiser, physics, y, sigma, iterations):
    """Proximal gradient descent with the denoiser, and how far the last iteration moved the image."""
    algorithm = deepinv.optim.optim_builder(
        iteration="PGD",
        prior=deepinv.optim.PnP(denoiser=denoiser),
        data_fidelity=deepinv.optim.L2(),
        max_iter=iterations,
        params_algo={"stepsize": 1.0, "g_param": sigma},
        early_stop=False,
    )
    with torch.no_grad():
        restored = algorithm(y, physics)
        again = denoiser(restored - physics.A_adjoint(physics.A(restored) - y), sigma)
    return restored, (again - restored).norm().item() / restored.norm().item()


@pytest.mark.parametrize("name", ["cdlnet", "dncnn", "proximal_denoiser", "analysis_denoiser"])
@torch.no_grad()
def test_deepinv_takes_our_networks_for_denoisers(name):
    denoiser, x = csc_nets.create_model(name).eval(), photograph()
    prior = deepinv.optim.PnP(denoiser=denoiser)
    torch.testing.assert_close(prior.prox(x, 0.1), denoiser(x, 0.1))


def test_deblurring():
    torch.manual_seed(0)
    x, denoiser = photograph(), csc_nets.create_model("analysis_denoiser", pretrained=True).eval()
    blur = deepinv.physics.functional.blur.gaussian_blur(sigma=(1.6, 1.6))
    physics = deepinv.physics.Blur(filter=blur, padding="circular", noise_model=deepinv.physics.GaussianNoise(0.01))
    y = physics(x)
    restored, moved = plug_and_play(denoiser, physics, y, 0.005, 40)
    assert psnr(restored, x) > psnr(y, x) + 1.0
    assert moved < 5e-3


def test_inpainting():
    torch.manual_seed(0)
    x, denoiser = photograph(), csc_nets.create_model("analysis_denoiser", pretrained=True).eval()
    physics = deepinv.physics.Inpainting(img_size=(1, 64, 64), mask=0.5)
    y = physics(x)
    restored, moved = plug_and_play(denoiser, physics, y, 0.05, 50)
    assert psnr(restored, x) > psnr(y, x) + 11
    assert moved < 5e-3
