"""Random filters and model-sparse codes, the objects of the theory of invertible convolutional layers.

Source: Gilbert, Zhang, Lee, Zhang, Lee, `Towards Understanding the Invertibility of Convolutional Neural Networks
<https://arxiv.org/abs/1705.08664>`_, section 3.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from csc_nets.functional import absolute_pool, unit_norm

__all__ = ["check_counts", "is_count", "random_filters", "sample_model_code"]


def is_count(value: object) -> bool:
    """Whether a value is an int >= 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_counts(**counts: object) -> None:
    """Raises a ValueError with the name of the first argument that is not an int >= 1."""
    for name, value in counts.items():
        if not is_count(value):
            raise ValueError(f"{name} must be an int >= 1, got {value!r}")


def random_filters(
    atoms: int,
    channels: int,
    kernel_size: int | Sequence[int],
    scaling: str = "variance",
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    r"""Gaussian filters ``(atoms, channels, *kernel_size)``, as in Theorem 3.1.

    Args:
        atoms: number of filters (K in the paper).
        channels: input channels (M in the paper).
        kernel_size: one int for one axis, otherwise one int per axis.
        scaling: ``"variance"``: the entries have the variance 1 / (channels * samples), so that the mean squared norm
            is 1. ``"unit"``: every norm is 1.
        generator: generator of the random numbers.
        dtype: dtype of the filters.

    Raises:
        ValueError: a number is not an int >= 1, or the scaling is not known.
    """
    check_counts(atoms=atoms, channels=channels)
    if scaling not in ("variance", "unit"):
        raise ValueError(f"scaling must be 'variance' or 'unit', got {scaling!r}")
    kernel = tuple(kernel_size) if isinstance(kernel_size, Sequence) else (kernel_size,)
    if not all(map(is_count, kernel)):
        raise ValueError(f"kernel_size must be an int >= 1 or a sequence of them, got {kernel_size!r}")
    weight = torch.randn(atoms, channels, *kernel, generator=generator, dtype=torch.float64)
    weight = unit_norm(weight) if scaling == "unit" else weight / math.sqrt(channels * math.prod(kernel))
    return weight.to(dtype)


def sample_model_code(
    samples: int,
    atoms: int,
    size: Sequence[int],
    k: int,
    *,
    window: int | Sequence[int] | None = None,
    values: str = "uniform",
    aligned: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Random model-k-sparse codes: one non-zero in each of k random blocks, at a random position.

    Args:
        samples, atoms, size: shape ``(samples, atoms, *size)``, of up to 3 axes.
        k: number of non-zeros of a code.
        window: positions of a block of an atom, one int or one per axis; None for all positions.
        values: values of the non-zeros: ``"uniform"`` in [-1, 1], ``"gaussian"``, or ``"sign"`` for -1 and 1.
        aligned: put all non-zeros at one position, each in another atom.
        generator: generator of the random numbers.

    Returns:
        Codes, float64.

    Raises:
        ValueError: there are more non-zeros than blocks (than atoms if aligned), or another argument is not allowed.

    Example:
        >>> code = sample_model_code(5, 8, (10,), 3)
        >>> code.shape, bool(((code != 0).sum(2) <= 1).all()), (code != 0).sum((1, 2)).tolist()
        (torch.Size([5, 8, 10]), True, [3, 3, 3, 3, 3])
    """
    if values not in ("uniform", "gaussian", "sign"):
        raise ValueError(f"values must be 'uniform', 'gaussian' or 'sign', got {values!r}")
    check_counts(samples=samples, atoms=atoms)
    if not isinstance(size, Sequence) or len(size) > 3 or not all(map(is_count, size)):
        raise ValueError(f"size must be up to 3 ints >= 1, got {size!r}")
    positions = math.prod(size)
    score = torch.rand(samples, atoms, *(size or (1,)), generator=generator)
    if aligned:
        absolute_pool(score[:1], window)  # refuses a bad window
        switches = torch.randint(positions, (samples, 1, 1), generator=generator).expand(-1, atoms, 1)
    else:
        switches = absolute_pool(score, window)[1].flatten(2)
    blocks = switches[0].numel()
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= blocks:
        raise ValueError(f"k must be an int, 1 to {blocks} (the blocks of a code), got {k!r}")
    block = torch.rand(samples, blocks, generator=generator).topk(k).indices
    places = block // switches.shape[2] * positions + switches.flatten(1).gather(1, block)
    if values == "gaussian":
        entries = torch.randn(places.shape, generator=generator, dtype=torch.float64)
    elif values == "uniform":
        entries = 2 * torch.rand(places.shape, generator=generator, dtype=torch.float64) - 1
    else:
        entries = 2.0 * torch.randint(2, places.shape, generator=generator).double() - 1
    return entries.new_zeros(samples, atoms * positions).scatter_(1, places, entries).view(samples, atoms, *size)
