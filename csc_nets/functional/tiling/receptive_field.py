"""The samples of a signal on which a part of its code depends: the receptive field of a pursuit of a few steps."""

from typing import NamedTuple

from csc_nets.functional.operators.geometry import ConvGeometry

__all__ = ["Window", "window"]


class Window(NamedTuple):
    """Samples ``[start, stop)`` of one axis to cut out, and the number of positions of their code to ``skip``.

    A circular window may begin before 0 or end behind the signal; it then continues at the other end.
    """

    start: int
    stop: int
    skip: int


def window(geometry: ConvGeometry, axis: int, size: int, steps: int, first: int, last: int) -> Window:
    r"""The samples that decide the positions ``[first, last)`` of a code after some proximal gradient steps.

    The window is coded on its own with the same geometry. At these positions its code is the code of the whole signal.
    The window begins at a multiple of the stride, so that positions agree.

    Derivation: let an atom extend over :math:`E = d(k-1)+1` samples, position i begin at sample :math:`is - p`, and a
    window be cut at its first sample. Step 1 is an analysis. The positions that see the padding are wrong,
    :math:`i < c_1 = \lceil p/s \rceil`. If the positions :math:`i < c` are wrong or missing, a synthesis makes the
    samples before :math:`(c-1)s + E - p` wrong, and the next analysis the positions that begin before these,
    :math:`i < c + \lceil E/s\rceil - 1`. So T steps make :math:`c_1 + (T-1)(\lceil E/s\rceil - 1)` positions wrong. At
    the other end the count is the same. Momentum, thresholds, ridge and masks act on each position by itself. The
    synthesis adds a border that was copied from the signal (circular, reflected) back to it, which makes those samples
    wrong. Near the true end of a reflected signal, positions also depend on the mirrored samples.

    Args:
        geometry: of the dictionary.
        axis: spatial axis, from 0.
        size: samples of the whole signal along it.
        steps: steps T of ISTA or FISTA from zero; 1 for thresholding.
        first: first wanted position.
        last: position behind the wanted ones.

    Raises:
        ValueError: positions outside the code, but for a circular one; a part of a circular signal whose code does not
            close on itself, because its positions times the stride are not its samples.
    """
    line = ConvGeometry(
        (geometry.kernel_size[axis],),
        (geometry.stride[axis],),
        (geometry.padding[axis],),
        (geometry.dilation[axis],),
        geometry.padding_mode,
    )
    stride, (lo, hi), mode = line.stride[0], line.padding[0], line.padding_mode
    extent = line.dilation[0] * (line.kernel_size[0] - 1) + 1
    (count,) = line.code_size((size,))
    if (first, last) == (0, count):
        return Window(0, size, 0)
    if mode != "circular" and not 0 <= first < last <= count:
        raise ValueError(
            f"positions {first} to {last} of axis {axis} lie outside a code of {count} (a circular layer cannot be cut "
            "behind one that is not)"
        )
    if mode == "circular" and count * stride != size:
        raise ValueError(
            f"a circular signal of {size} samples cannot be cut along axis {axis}: its code has {count} positions at "
            f"stride {stride}, and {stride} times {count} is not {size}; keep that axis whole"
        )
    spread = -(-extent // stride) - 1
    folded = {"zeros": (0, 0), "reflect": (lo + (lo > 0), hi + (hi > 0)), "circular": (hi, lo)}[mode]
    near, far = first, last
    if mode == "reflect":  # as far as a sample or its mirror image has an influence
        near = min(first, (size - 1 - hi + lo - extent) // stride + 1)
        far = max(last, 2 * lo // stride + 1)
    wrong = -(-(lo + max(0, folded[0] - spread * stride)) // stride) + (steps - 1) * spread
    start = (near - wrong) * stride
    stop = (far - 1 + (steps - 1) * spread) * stride + extent - lo + max(0, folded[1] - spread * stride)
    least = extent + (0 if mode == "zeros" else max(lo, hi) + 1)  # holds an atom, and its border can be copied from it
    stop = max(stop, start + least)
    if mode == "circular":
        stop += -(stop - start) % stride
        return Window(0, size, first) if stop - start >= size else Window(start, stop, first - start // stride)
    start, stop = max(start, 0), max(min(stop, size), 0)
    stop = min(size, max(stop, start + least))
    start = min(start, max(0, stop - least) // stride * stride)
    return Window(start, stop, first - start // stride)
