"""A page: a heading, key numbers and blocks, laid out by a template."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

__all__ = ["Block", "Page", "can_render", "render"]


@dataclass(frozen=True)
class Block:
    """One thing that a page shows.

    Args:
        title: its heading. Blocks of several pages with the same title stand side by side.
        body: HTML, made by the functions of this package.
        caption: what to see.
    """

    title: str
    body: str
    caption: str = ""


@dataclass(frozen=True)
class Page:
    """What is known of one run, or of one sweep.

    Args:
        name: of it.
        summary: one sentence: what was trained on what.
        numbers: key numbers with their units, by name.
        blocks: in the order of the page.
    """

    name: str
    summary: str
    numbers: dict[str, str] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)


def can_render() -> bool:
    """Whether jinja2 is installed."""
    return find_spec("jinja2") is not None


def render(pages: Sequence[Page], file: Path, *, title: str, shared: Sequence[Block] = ()) -> None:
    """Writes one HTML file that needs nothing else, also no network.

    Args:
        pages: one, or several to be put side by side.
        file: to write.
        title: of the file.
        shared: blocks about all pages, which stand before their own.

    Raises:
        ValueError: jinja2 is not installed.
    """
    if not can_render():
        raise ValueError("a page is laid out by jinja2, which is not installed: pip install csc-nets[report]")
    import jinja2

    source = (files("csc_nets.pages") / "page.html.j2").read_text()
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    titles = list(dict.fromkeys(block.title for page in pages for block in page.blocks))
    rows = [(name, [next((b for b in page.blocks if b.title == name), None) for page in pages]) for name in titles]
    names = list(dict.fromkeys(name for page in pages for name in page.numbers))
    text = environment.from_string(source).render(pages=pages, title=title, shared=shared, rows=rows, names=names)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
