"""Stages, pooling, a linear classifier: timm's API of an image classifier."""

from collections.abc import Sequence
from inspect import signature
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d

from csc_nets.models.staged_encoder import StagedEncoder

__all__ = ["ImageClassifier"]


class ImageClassifier(StagedEncoder):
    """Stages, pooling, dropout and a linear layer.

    Args:
        stages, channels, reductions, in_chans, input_size: as in :class:`StagedEncoder`.
        num_classes: classes; 0 leaves the pooled features as output.
        drop_rate: dropout of the pooled features.
        grid: features are pooled over ``grid`` x ``grid`` parts of the image; 1 for global pooling.
        global_pool: ``"avg"`` for the means of the parts, ``"max"`` for their maxima.

    Attributes:
        poolings: the values of ``global_pool`` that a class takes.

    Shape:
        - input ``(N, in_chans, H, W)``
        - output: logits ``(N, num_classes)``
    """

    poolings: ClassVar[tuple[str, ...]] = ("avg", "max")

    def __init__(
        self,
        stages: Sequence[nn.Module],
        channels: Sequence[int],
        reductions: Sequence[int],
        *,
        in_chans: int,
        input_size: int,
        num_classes: int,
        drop_rate: float = 0.0,
        grid: int = 1,
        global_pool: str = "avg",
    ) -> None:
        super().__init__(stages, channels, reductions, in_chans=in_chans, input_size=input_size)
        if not isinstance(grid, int) or grid < 1:
            raise ValueError(f"grid must be an int >= 1, got {grid!r}")
        self.grid = grid
        self.global_pool = self._as_pooling(global_pool)
        if not 0 <= drop_rate < 1:
            raise ValueError(f"drop_rate must be in [0, 1), got {drop_rate}")
        self.dropout = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, num_classes)`` of images ``(N, in_chans, H, W)``."""
        return self.forward_head(self.forward_features(x))

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits of features ``(N, num_features, H', W')``.

        With ``pre_logits`` the pooled ``(N, num_features * grid**2)``.
        """
        maxima = self.global_pool == "max"
        if self.grid == 1:
            pooled = features.amax(dim=(2, 3)) if maxima else features.mean(dim=(2, 3))
        else:
            pool = adaptive_max_pool2d if maxima else adaptive_avg_pool2d
            pooled = pool(features, self.grid).flatten(1)
        output: Tensor = self.dropout(pooled)
        if not pre_logits:
            output = self.fc(output)
        return output

    def get_classifier(self, name_only: bool = False) -> nn.Module | str:
        """The last layer: linear, or the identity for ``num_classes=0``; with ``name_only`` its name."""
        return "fc" if name_only else self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh last layer, on the device and in the dtype of the network; 0 classes for none.

        Args:
            num_classes: classes.
            global_pool: ``"avg"`` or ``"max"`` over the whole image instead of ``grid`` x ``grid`` parts; None for no
                change. Networks without an option ``global_pool`` know ``"avg"`` only.

        Raises:
            ValueError: ``num_classes`` is negative or no int, or the network does not know the pooling.
        """
        if not isinstance(num_classes, int) or num_classes < 0:
            raise ValueError(f"num_classes must be an int >= 0, got {num_classes!r}")
        # The lam of a layer is a buffer: stages over a fixed operator have no parameter.
        like = next(t for t in chain(self.parameters(), self.buffers(), [torch.empty(0)]) if t.is_floating_point())
        if global_pool is not None:
            for name, value in {"grid": 1, "global_pool": self._as_pooling(global_pool)}.items():
                fixed = getattr(self, name)
                if fixed == value:
                    continue
                if name not in signature(type(self)).parameters:  # it could not be built again
                    raise ValueError(
                        f"global_pool: {self.model_name} has {name}={fixed!r}, always, got {global_pool!r}"
                    )
                setattr(self, name, value)
                if self.model_args:
                    self.model_args[name] = value
        self.num_classes = num_classes
        self.fc: nn.Module = nn.Identity()
        if num_classes:
            pooled = self.num_features * self.grid**2
            self.fc = nn.Linear(pooled, num_classes, device=like.device, dtype=like.dtype)
        if "num_classes" in self.model_args:
            self.model_args["num_classes"] = num_classes

    def _as_pooling(self, name: str) -> str:
        if name not in self.poolings:
            raise ValueError(f"global_pool must be {' or '.join(map(repr, self.poolings))}, got {name!r}")
        return name

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """As :attr:`StagedEncoder.pretrained_cfg`, with ``num_classes`` and the name of the ``classifier``."""
        return {**super().pretrained_cfg, "num_classes": self.num_classes, "classifier": "fc"}
