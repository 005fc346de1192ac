"""Atoms on blocks that do not overlap: analysis and synthesis are one product of matrices.

Where the stride is the size of the atoms, each block ``(C, *K)`` of a signal meets each atom once. On a CPU torch's
convolutions take 4 (analysis) to 20 times (synthesis) as long as the product, for atoms of 8 to 32 pixels.
"""

from collections.abc import Sequence

from torch import Tensor

from csc_nets.functional.checks import is_transformed
from csc_nets.functional.operators.geometry import ConvGeometry

__all__ = ["analysis", "applies", "synthesis"]

FEWEST_SAMPLES = 64
"""Of an atom; the copies of a signal into blocks cost more than small atoms save."""


def applies(weight: Tensor, geometry: ConvGeometry, signal_size: Sequence[int]) -> bool:
    """Whether signals of this size are whole blocks, and the other functions may be called and are faster."""
    return bool(
        not is_transformed()
        and geometry.groups == 1
        and geometry.stride == geometry.kernel_size
        and weight[0].numel() >= FEWEST_SAMPLES
        and all(d == 1 for d in geometry.dilation)
        and all(pads == (0, 0) for pads in geometry.padding)
        and all(type(n) is int and n % k == 0 for n, k in zip(signal_size, geometry.kernel_size, strict=True))
        and weight.device.type == "cpu"
    )


def analysis(x: Tensor, weight: Tensor) -> Tensor:
    """Correlations ``(N, M, *S / K)`` of signals ``(N, C, *S)`` with atoms ``(M, C, *K)``, channels last in memory."""
    kernel = weight.shape[2:]
    for axis, k in enumerate(kernel):
        x = x.unflatten(2 + 2 * axis, (-1, k))
    grid, within = range(2, x.ndim, 2), range(3, x.ndim, 2)
    blocks = x.permute(0, *grid, 1, *within).flatten(1 + len(kernel))
    return (blocks @ weight.flatten(1).T).movedim(-1, 1)


def synthesis(z: Tensor, weight: Tensor) -> Tensor:
    """Signals ``(N, C, *S)`` of codes ``(N, M, *S / K)``; the adjoint of :func:`analysis`."""
    channels, *kernel = weight.shape[1:]
    rows = z.movedim(1, -1).reshape(-1, len(weight))  # one product; a batch of small ones is slower
    blocks = (rows @ weight.flatten(1)).view(len(z), *z.shape[2:], channels, *kernel)
    dims = len(kernel)
    pairs = [axis for i in range(dims) for axis in (1 + i, 2 + dims + i)]
    signal = blocks.permute(0, 1 + dims, *pairs)
    for axis in range(dims):
        signal = signal.flatten(2 + axis, 3 + axis)
    return signal
