import base64
import io
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from csc_nets.pages import Block, Page, command, picture, render, table

pytest.importorskip("jinja2", reason="pages are laid out by jinja2, which is not installed")


class Elements(HTMLParser):
    """All elements of a page; those that are never closed are a fault."""

    EMPTY = ("meta", "link", "img", "br", "rect", "circle", "line", "polyline")

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop() == tag


def test_one_page(tmp_path):
    blocks = [Block("Numbers", table([{"a": 0.123456, "b": "<x>"}], {"a": "A & B", "b": "b"}), "Look here.")]
    page = Page("run", "A network on digits.", {"accuracy": "99 %"}, blocks)
    render([page], tmp_path / "page.html", title="<run>", shared=[Block("Again", command("a < b"))])
    text = (tmp_path / "page.html").read_text()
    assert "<title>&lt;run&gt;</title>" in text and "A &amp; B" in text and "&lt;x&gt;" in text and "0.1235" in text
    elements = Elements(text).found
    targets = {attributes["id"] for tag, attributes in elements if tag == "h2"}
    assert targets == {attributes["href"].lstrip("#") for tag, attributes in elements if tag == "a"}
    # Nothing is fetched.
    assert "http" not in text and "@import" not in text and not [tag for tag, _ in elements if tag == "script"]
    assert all(attributes.get("href", "data:").startswith(("#", "data:")) for _, attributes in elements)
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text


def test_pages_stand_side_by_side(tmp_path):
    pages = [Page(name, "s", {"accuracy": name}, [Block("Same", name), Block(name, name)]) for name in ("A", "B")]
    render(pages, tmp_path / "page.html", title="two")
    text = (tmp_path / "page.html").read_text()
    Elements(text)
    assert text.count("Nothing to show.") == 2 and text.count('class="side"') == 3


def test_a_picture_is_a_png_inside_of_the_page():
    found = Elements(picture(torch.rand(3, 1, 8, 8), alt='three "digits"', columns=3)).found
    ((tag, attributes),) = found
    assert tag == "img" and attributes["alt"] == 'three "digits"'
    kind, data = attributes["src"].split(",")
    assert kind == "data:image/png;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.size == (3 * (56 + 3) + 3, 56 + 6)
