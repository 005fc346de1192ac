"""Grey images for networks that take colours, and the other way round."""

from collections.abc import Sequence

from torch import Tensor

__all__ = ["to_channels", "to_channels_of"]

# Rec. 601 in 16 bits, as PIL makes colours grey: a data set gives the same pixels as a folder of its images.
_LUMA = (19595, 38470, 7471)


def to_channels(name: str, images: Tensor, in_chans: int) -> Tensor:
    """Images of another number of channels: grey is repeated, and colours become their luma.

    Args:
        name: Stands in front of the message.
        images: uint8 or floating ``(N, C, ...)``.
        in_chans: Channels wanted.

    Returns:
        Images ``(N, in_chans, ...)`` of the same dtype.

    Raises:
        ValueError: In one line, for other numbers than 1 and 3.
    """
    channels = images.shape[1]
    if channels == in_chans:
        return images
    if {channels, in_chans} != {1, 3} or isinstance(in_chans, bool):
        allowed = "1 or 3" if channels in (1, 3) else channels
        raise ValueError(f"{name}: in_chans must be {allowed}, its images have {channels}, got {in_chans!r}")
    if in_chans == 3:
        return images.expand(-1, 3, *images.shape[2:]).contiguous()
    whole = not images.is_floating_point()
    wide = images.int() if whole else images
    grey = sum(weight * wide[:, i : i + 1] for i, weight in enumerate(_LUMA))
    assert isinstance(grey, Tensor)
    return (grey + 2**15 >> 16).to(images.dtype) if whole else grey / 2**16


def to_channels_of(values: Sequence[float], channels: int, in_chans: int) -> tuple[float, ...]:
    """Means or deviations of images of ``channels``, after :func:`to_channels`: repeated, or their average.

    Other than one a channel of the images, they are meant as they are.
    """
    values = tuple(values)
    if len(values) != channels or channels == in_chans:
        return values
    return values * in_chans if channels == 1 else (sum(values) / channels,)
