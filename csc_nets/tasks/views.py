"""Test-time augmentation: one answer from several views of an image."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["TestViews", "averaged_logits", "check_views"]

TestViews = Literal[1, 2, 6]
"""1: the image. 2: its mirror image, too. 6: both also moved by a pixel up and left, and down and right."""


def check_views(count: int) -> None:
    """Refuses other numbers of views.

    Raises:
        ValueError: it is none of the three.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count not in get_args(TestViews):
        raise ValueError(f"test_views must be 1, 2 or 6, got {count!r}")


def averaged_logits(classify: Callable[[Tensor], Tensor], images: Tensor, count: TestViews) -> Tensor:
    """Mean logits of several views of each image, as in airbench94 (Jordan, arXiv 2404.00498, section 3.5).

    The unmoved views have half of the weight. Moved ones are padded with their reflection.

    Args:
        classify: from images to logits ``(N, K)``.
        images: ``(N, C, H, W)``, of at least two pixels a side for six views.
        count: 1, 2 or 6 views.

    Returns:
        ``(N, K)``.

    Raises:
        ValueError: another number of views, or six of images of one pixel a side.
    """
    check_views(count)
    if count == 6 and min(images.shape[2:]) < 2:
        raise ValueError(f"test_views=6 moves images by a pixel: they need 2 a side, got {tuple(images.shape)}")
    if count == 1:
        return classify(images)
    places = [images]
    if count == 6:
        padded = pad(images, (1, 1, 1, 1), mode="reflect")
        places += [padded[..., :-2, :-2], padded[..., 2:, 2:]]
    logits = [(classify(place) + classify(place.flip(-1))) / 2 for place in places]
    return logits[0] if count == 2 else logits[0] / 2 + torch.stack(logits[1:]).mean(0) / 2
