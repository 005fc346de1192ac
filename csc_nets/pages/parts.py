"""Pieces of a page: pictures, tables, commands."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.utils import make_grid

__all__ = ["command", "picture", "table"]

SIDE = 56
"""Pixels of a tile, at least: small ones are enlarged, pixel by pixel."""


def picture(tiles: Tensor, *, alt: str, columns: int | None = None) -> str:
    """Images beside one another, as a PNG inside of the page.

    Args:
        tiles: ``(N, C, H, W)`` with pixels in [0, 1], C of 1 or 3.
        alt: what the picture shows, for who does not see it.
        columns: images in a row; None for all.
    """
    tiles = tiles.float().cpu().clamp(0, 1)
    enlarged = interpolate(tiles, scale_factor=max(1, -(-SIDE // tiles.shape[-1])))
    whole = make_grid(enlarged, nrow=columns or len(tiles), padding=3, pad_value=0.5)
    pixels = (255 * whole).round().to(torch.uint8).permute(1, 2, 0).numpy()
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    data = base64.b64encode(stream.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alt, quote=True)}">'


def table(rows: Sequence[Mapping[str, Any]], heads: Mapping[str, str]) -> str:
    """A table that scrolls by itself where it is too wide.

    Args:
        rows: values by key; numbers are written with four digits.
        heads: keys of the columns, and what stands above them.
    """
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads.values())
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_cell(row.get(key)))}</td>" for key in heads) + "</tr>" for row in rows
    )
    return f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def command(text: str) -> str:
    """A command to copy: ``text`` in a typewriter's letters, whose lines break where a phone is too narrow."""
    return f"<pre><code>{escape(text)}</code></pre>"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
