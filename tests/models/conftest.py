"""Narrow networks, so that a matrix over the whole zoo runs in seconds."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from csc_nets.models import create_model

RESIDUAL = {"widths": [4, 6, 8, 10], "depths": [1, 2, 1, 1]}
LOOP = {"widths": [4, 6], "features": 8, "input_size": 16}
TOKENS = {"width": 12, "depth": 2, "heads": 2, "patch_size": 4, "input_size": 16}
STAGES = {"widths": [4, 6, 8]}
NARROW = {
    "cdlnet": {"in_chans": 3, "steps": 3, "atoms": 6},
    "cdlnet_large": {"in_chans": 3, "steps": 3, "atoms": 6},
    "gdlnet": {"in_chans": 3, "steps": 3, "atoms": 6},
    "cscnet": {"in_chans": 3, "steps": 3, "atoms": 6, "kernel_size": 5, "stride": 2},
    "dncnn": {"in_chans": 3, "depth": 4, "width": 6},
    "coded_activations": {
        "source": "csc_nets/resnet18",
        "source_args": RESIDUAL,
        "atoms": 12,
        "k": 3,
        "fit": False,
        "freeze": False,
        "look_size": 16,
    },
    "converted": {"source": "csc_nets/resnet18", "source_args": RESIDUAL},
    **dict.fromkeys([f"crate_{size}" for size in ("tiny", "small", "base", "large", "cifar")], TOKENS),
    "csc_autoencoder": {"widths": [4, 6, 8]},
    "csc_dictionary": {"widths": [6], "kernel_size": 5, "steps": 4, "highpass": 2.0},
    "ml_csc_dictionary": {"widths": [4, 6, 8], "steps": 4},
    "csc_small": {"widths": [4, 6, 8]},
    "deep_cnn_mnist": {"in_chans": 3, "widths": [4, 6, 8], "kernel_size": 3, "stride": 2, "padding": 1, "steps": 1},
    "invertible_cnn": {"widths": [4, 6, 8], "kernel_size": 3, "frozen": False},
    "ml_csc_cifar": {"widths": [4, 6, 8], "kernel_size": 3, "head_widths": [6, 8], "steps": 2},
    "ml_csc_mnist": {
        "in_chans": 3,
        "widths": [4, 6, 8],
        "kernel_size": 3,
        "stride": [1, 2, 2],
        "padding": 1,
        "steps": 2,
    },
    "proximal_denoiser": {"in_chans": 3, "atoms": 12, "kernel_size": 3, "stride": 2, "pursuit": "fista", "steps": 6},
    "analysis_denoiser": {"in_chans": 3, "atoms": 12, "kernel_size": 3, "pursuit": "fista", "steps": 6},
    "sparse_autoencoder": {"sizes": [4, 8], "frequencies": [2, 3], "steps": 6},
    "scattering": {"scales": 2, "angles": 2, "input_size": 16},
    "sparse_prior_cnn": {"widths": [4, 6, 8], "kernel_size": 3, "stride": [1, 2, 2], "padding": 1, "steps": 3},
    **dict.fromkeys([f"csc_ctrl_{size}" for size in (32, 64, 128, 224)], LOOP),
    **dict.fromkeys([f"conv_ctrl_{size}" for size in (32, 64, 128, 224)], LOOP),
    **dict.fromkeys(["resnet18", "resnet34", "sdnet18", "sdnet34", "sdnet18_all", "sdnet34_all"], RESIDUAL),
    **dict.fromkeys(["fastnet", "fastnet_stem", "fastnet_stages", "fastnet_all"], STAGES),
    **dict.fromkeys(["resnet20", "resnet32", "sdnet20", "sdnet20_all", "sdnet32_all"], RESIDUAL),
}


@pytest.fixture
def narrow() -> Callable[..., nn.Module]:
    """``narrow(name, **arguments)``: the network with few channels and blocks, from a fixed seed."""

    def build(name: str, **arguments) -> nn.Module:
        torch.manual_seed(0)
        model = create_model(name, **{**NARROW.get(name, {}), **arguments})
        if name in ("ml_csc_mnist", "ml_csc_cifar"):  # their initial codes are so small that no check would see them
            with torch.no_grad():
                for parameter in model.stages[0].dictionaries.parameters():
                    parameter.mul_(6)
        return model

    return build


@pytest.fixture
def images() -> Callable[..., torch.Tensor]:
    """``images(channels=3, size=(16, 16), count=2)``: a batch of noise, from a fixed seed."""

    def draw(channels: int = 3, size: tuple[int, int] = (16, 16), count: int = 2) -> torch.Tensor:
        return torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(1))

    return draw
