"""Numbers about results are computed in float32 at least, whatever the precision of the network."""

import torch
from torch import Tensor

__all__ = ["exact"]


def exact(x: Tensor) -> Tensor:
    """Half precision as float32, with its gradient; float32 and float64 as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
