"""A training whose loss is finite and yet beyond all use."""

from typing import Any

import torch
from torch import Tensor

__all__ = ["Divergence"]


class Divergence:
    r"""Counts the batches in a row that are far worse than a network that has learnt nothing.

    With :math:`\ell_0` the loss of the first batch and :math:`\ell_t` that of a trivial answer, which the task knows,
    a batch is hopeless where

    .. math:: \ell > 100 \max(\ell_0, \ell_t).

    A training has diverged where an epoch ends with 20 hopeless batches in a row, or consists of them: a loss that
    leaps up and comes back has not. Nothing here makes a GPU wait before the end of an epoch.
    """

    factor = 100.0
    batches = 20

    def __init__(self) -> None:
        self.reference: Tensor | None = None
        self.hopeless: Tensor | None = None
        self.seen = 0

    @torch.no_grad()
    def see(self, loss: Tensor, trivial: Tensor | float) -> None:
        """Takes note of the loss of a batch, and of that of a trivial answer to it."""
        value = loss.detach().float()
        # Filled where it is needed: a copy from the host would make a GPU wait.
        floor = trivial.float() if isinstance(trivial, Tensor) else value.new_full((), trivial)
        if self.reference is None or self.hopeless is None:
            self.reference, self.hopeless = value, torch.zeros_like(value)
        limit = self.factor * torch.maximum(self.reference.to(value.device), floor)
        self.hopeless = torch.where(value > limit, self.hopeless.to(value.device) + 1, 0)
        self.seen += 1

    def end_epoch(self) -> bool:
        """Whether the epoch that ends now was hopeless to its end."""
        enough, self.seen = min(self.seen, self.batches), 0
        return enough > 0 and self.hopeless is not None and int(self.hopeless) >= enough

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on with, as plain values."""
        if self.reference is None or self.hopeless is None:
            return {}
        return {"reference": float(self.reference), "hopeless": int(self.hopeless)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state; a checkpoint of an older version has none."""
        if state:
            self.reference = torch.tensor(float(state["reference"]))
            self.hopeless = torch.tensor(float(state["hopeless"]))
