"""Graphs of ONNX with free sizes, compared over many sizes, strides and kernels."""

import pytest
import torch

from csc_nets import create_model
from csc_nets.layers import CSC2d

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason=package)

# Heights 17 to 257 in odd steps, so that all remainders of the strides occur, and widths of that range out of order.
SIZES = [(n, 17 + 7 * n % 241) for n in range(17, 258, 11)]


def compare(module, tmp_path, tolerance):
    """Compares at all sizes, with batches of 1 to 3 images."""
    from onnxruntime import InferenceSession

    free = (dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC),)
    program = torch.onnx.export(module, (torch.randn(2, 3, 40, 41),), dynamo=True, dynamic_shapes=free, verbose=False)
    program.save(tmp_path / "module.onnx")
    session = InferenceSession(tmp_path / "module.onnx")
    name = session.get_inputs()[0].name
    for i, size in enumerate(SIZES):
        x = torch.randn(1 + i % 3, 3, *size)
        with torch.no_grad():
            ours = module(x)
        theirs = torch.from_numpy(session.run(None, {name: x.numpy()})[0])
        assert ours.shape == theirs.shape, size
        assert (ours != 0).double().mean() > 0, size
        assert (ours - theirs).abs().max() <= tolerance * ours.abs().max(), size


@pytest.mark.slow
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("kernel, padding", [(2, 0), (3, 1), (5, 2), (7, 3)])
def test_a_layer_at_all_sizes(kernel, padding, stride, tmp_path):
    torch.manual_seed(0)
    compare(CSC2d(3, 8, kernel, stride=stride, padding=padding, lam=0.05, steps=3).eval(), tmp_path, 1e-5)


@pytest.mark.slow
def test_a_network_at_all_sizes(tmp_path):
    torch.manual_seed(0)
    compare(create_model("csc_small", in_chans=3).eval(), tmp_path, 1e-4)
