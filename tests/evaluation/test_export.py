import pytest
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
