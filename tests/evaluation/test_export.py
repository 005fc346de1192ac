import pytest
import torch
from versions import NO_TRANSFORMS, exports_transforms

from csc_nets.evaluation.export import export_network
from csc_nets.models import create_model

NETWORKS = {
    "analysis_denoiser": {"in_chans": 3, "atoms": 6, "kernel_size": 3, "pursuit": "fista", "steps": 3},
    "proximal_denoiser": {"in_chans": 3, "atoms": 6, "kernel_size": 3, "stride": 2, "pursuit": "fista", "steps": 3},
    "scattering": {"scales": 2, "angles": 2, "input_size": 16},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_of_torch(name, tmp_path):
    if name == "scattering" and not exports_transforms():
        pytest.skip(NO_TRANSFORMS)
    network = create_model(name, **NETWORKS[name])
    off = export_network(network, tmp_path / "a.pt2", (3, 16, 16), form="torch", free=name != "scattering")
    assert off < 1e-5


@pytest.mark.parametrize("side", [12, 13])
@pytest.mark.parametrize("name", ["cdlnet", "gdlnet"])
def test_of_strided_denoisers_whatever_the_example(name, side, tmp_path):
    network = create_model(name, steps=1, atoms=2, stride=3)
    assert export_network(network, tmp_path / "a.pt2", (1, side, side), form="torch") < 1e-5


@pytest.mark.parametrize("name", ["cdlnet", "proximal_denoiser"])
def test_blind_denoisers_in_onnx(name, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=package)
    options = {"pursuit": "fista", "stride": 2} if name == "proximal_denoiser" else {}
    network = create_model(name, atoms=4, steps=2, kernel_size=3, **options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.rand_like(parameter))  # thresholds that depend on the noise level
    assert export_network(network, tmp_path / "a.onnx", (1, 16, 16)) < 1e-4
