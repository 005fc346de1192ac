"""Dictionaries as pairs of analysis and synthesis: convolutions, matrices, products, Fourier."""

from collections.abc import Callable

from torch import Tensor

from csc_nets.functional.operators.convolution import Convolution
from csc_nets.functional.operators.geometry import ConvGeometry
from csc_nets.functional.operators.matrix import Matrix
from csc_nets.functional.operators.product import Cascade
from csc_nets.functional.operators.protocol import Lateral, Operator, Pair, Preconditioned

__all__ = [
    "Cascade",
    "ConvGeometry",
    "Convolution",
    "Lateral",
    "Matrix",
    "Operator",
    "Pair",
    "Preconditioned",
    "as_operator",
]


def as_operator(dictionary: Operator | Tensor) -> Operator:
    """An operator from the weights ``dictionary``: ``(M, F)`` is a matrix of atoms, ``(M, C, *K)`` a convolution.

    A convolution from a tensor has stride 1 and no padding; a ``Dictionary`` layer takes all other settings.

    Raises:
        ValueError: a tensor of another shape, or an object without analysis and synthesis.
    """
    if isinstance(dictionary, Tensor):
        if dictionary.ndim == 2:
            return Matrix(dictionary)
        if 3 <= dictionary.ndim <= 5:
            return Convolution(dictionary, ConvGeometry.create(dictionary.ndim - 2, tuple(dictionary.shape[2:])))
        raise ValueError(f"dictionary: expected weights (M, F) or (M, C, *K), got shape {tuple(dictionary.shape)}")
    methods = (getattr(dictionary, name, None) for name in ("analysis", "synthesis"))
    if not all(isinstance(method, Callable) for method in methods):  # type: ignore[arg-type]
        raise ValueError(
            f"dictionary: expected weights, or an object with analysis and synthesis, got {type(dictionary).__name__}"
        )
    return dictionary
