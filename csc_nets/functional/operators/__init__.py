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
    """Lets a pursuit take plain weights: ``(M, F)`` is a matrix whose rows are atoms, ``(M, C, *K)`` a convolution.

    A convolution given as a tensor has stride 1 and no padding; use a ``Dictionary`` layer for anything else.

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
