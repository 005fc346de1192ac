"""Codes of a signal without end: chunk by chunk, equal to the code of the whole."""

import torch
from torch import Tensor

from csc_nets.functional.tiling.receptive_field import window
from csc_nets.layers.csc import CSC1d
from csc_nets.layers.tiles import chain

__all__ = ["CodeStream"]

_ENDLESS = 1 << 62


class CodeStream:
    r"""Codes of a signal that comes in chunks.

    With T steps a position of the code depends on nearby samples alone
    (:func:`csc_nets.functional.tiling.receptive_field.window`). So it is final as soon as these have come, and samples
    that no later position needs are forgotten: the memory does not grow. The start of the signal has the layer's
    padding, and :meth:`finish` gives its end the same.

    Args:
        layer: a :class:`CSC1d` in evaluation mode, with ``padding_mode="zeros"``.

    Attributes:
        delay: samples that must come after the first sample of an atom until its position is final, its own included.

    Raises:
        ValueError: a layer whose code is not decided nearby, such as one with a tolerance, or another padding mode.

    Example:
        >>> layer, x = CSC1d(1, 8, 9, padding=4, steps=4).eval(), torch.randn(1, 1, 1000)
        >>> stream = CodeStream(layer)
        >>> parts = [stream.push(chunk) for chunk in x.split(64, 2)] + [stream.finish()]
        >>> torch.allclose(torch.cat(parts, 2), layer(x), atol=1e-5)
        True
    """

    def __init__(self, layer: CSC1d) -> None:
        if not isinstance(layer, CSC1d):
            raise ValueError(f"CodeStream: layer must be a CSC1d, got {type(layer).__name__}")
        chain(layer)
        self.layer, self.geometry = layer, layer.dictionary.geometry
        if self.geometry.padding_mode != "zeros":
            raise ValueError(
                f"CodeStream: padding_mode must be 'zeros', for a signal without end has no other border, got "
                f"{self.geometry.padding_mode!r}"
            )
        self.steps = layer.steps or 1
        self.restart()

    def restart(self) -> None:
        """Forgets the signal; the next chunk is the first of another one."""
        self._kept: Tensor | None = None
        self._first, self._next = 0, 0  # sample of the kept ones, position of the code

    @property
    def delay(self) -> int:
        """See the attributes."""
        far = 1 << 20  # anywhere in the middle
        start = far * self.geometry.stride[0] - self.geometry.padding[0][0]
        return window(self.geometry, 0, _ENDLESS, self.steps, far, far + 1).stop - start

    @torch.no_grad()
    def push(self, chunk: Tensor) -> Tensor:
        """The positions that become final with the next samples.

        Args:
            chunk: ``(N, C, L)``, any L.

        Returns:
            Codes ``(N, M, L')``; L' may be 0.

        Raises:
            ValueError: other channels than the layer has; another shape or type than that of the chunks before.
        """
        kept = self._kept
        found = f"{tuple(chunk.shape)} of {chunk.dtype}" if isinstance(chunk, Tensor) else type(chunk).__name__
        samples, kind = ("N", self.layer.atoms.dtype) if kept is None else (len(kept), kept.dtype)
        fits = isinstance(chunk, Tensor) and chunk.ndim == 3 and chunk.shape[1] == self.layer.in_channels
        if not fits or (kept is not None and (len(chunk) != samples or chunk.dtype != kind)):
            wanted = f"({samples}, {self.layer.in_channels}, L) of {kind}"
            raise ValueError(f"CodeStream: expected a chunk {wanted}, got {found}")
        self._kept = kept = chunk if kept is None else torch.cat([kept, chunk], 2)
        count = self._first + kept.shape[2]
        # The window's end moves by the stride with each position.
        last = self._next + max(0, (count - self._stop(self._next + 1)) // self.geometry.stride[0] + 1)
        while last > self._next and self._stop(last) > count:  # at the start, where windows are clipped
            last -= 1
        return self._code(last, _ENDLESS)

    def finish(self) -> Tensor:
        """The positions that are left, with the layer's padding behind the last sample; the stream starts anew.

        Raises:
            ValueError: nothing was pushed, or less than the shortest signal of the layer.
        """
        if self._kept is None:
            raise ValueError("CodeStream: finish needs at least one chunk")
        size = self._first + self._kept.shape[2]
        code = self._code(self.geometry.code_size((size,))[0], size)
        self.restart()
        return code

    def _stop(self, last: int) -> int:
        return window(self.geometry, 0, _ENDLESS, self.steps, self._next, last).stop

    @torch.no_grad()
    def _code(self, last: int, size: int) -> Tensor:
        """The positions up to ``last`` of a signal of ``size`` samples; forgets samples that are not needed again."""
        kept = self._kept
        assert kept is not None
        if last <= self._next:
            return kept.new_zeros(len(kept), self.layer.out_channels, 0)
        own = window(self.geometry, 0, size, self.steps, self._next, last)
        code: Tensor = self.layer(kept[:, :, own.start - self._first : own.stop - self._first])
        code = code[:, :, own.skip : own.skip + last - self._next]
        self._next = last
        start = window(self.geometry, 0, _ENDLESS, self.steps, last, last + 1).start
        start = max(self._first, start - self._shortest)  # the end may need a little more before it
        self._kept, self._first = kept[:, :, start - self._first :].clone(), start
        return code

    @property
    def _shortest(self) -> int:
        g = self.geometry
        extent = g.dilation[0] * (g.kernel_size[0] - 1) + 1
        return -(-extent // g.stride[0]) * g.stride[0]
