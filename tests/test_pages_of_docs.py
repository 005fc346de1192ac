"""The guide and the how-to pages say what is so: their Python runs, their links lead somewhere, and so do README's."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("*/*.md"))]
PROGRAMS = sorted((DOCS / "examples").glob("plot_*.py"))
TAUGHT = [page for page in PAGES if page.parent.name in ("guide", "how_to") or page.name == "README.md"]


def blocks(page, language="python"):
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.S | re.M)


@pytest.mark.parametrize("page", [p for p in TAUGHT if blocks(p)], ids=lambda page: page.name)
def test_python_runs_from_top_to_bottom(page):
    names = {"x": torch.randn(2, 3, 16, 16)}
    for text in blocks(page):
        if "import timm" in text:
            pytest.importorskip("timm")
        exec(compile(text, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files(page):
    """What the site's builder makes itself is left to it."""
    lost = [
        target
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
        if "://" not in target and "auto_examples" not in target and not (page.parent / target).exists()
    ]
    assert not lost


def test_readme_is_one_screen_and_its_code_blocks_are_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 80
    found = re.findall(r"^```\w+\n(.*?)^```$", text, re.S | re.M)
    assert len(found) == 4 and all(len([line for line in block.splitlines() if line]) <= 5 for block in found)


def test_the_gallery_has_enough_programs():
    assert len(PROGRAMS) >= 15


@pytest.mark.parametrize("file", PROGRAMS, ids=lambda file: file.stem)
def test_a_program_of_the_gallery_is_a_picture_with_a_caption(file):
    """``make docs`` runs them all, and stops at the first error."""
    text = file.read_text()
    assert re.match(r'"""\n[^\n]+\n=+\n\n[\w:`]', text), "a title, and what it is about"
    code, caption = text.rsplit("# %%\n", 1)
    assert code.rstrip().endswith("plt.show()") and code.count("plt.show()") == 1
    assert caption.startswith("# **What to see.** ") and all(line.startswith("#") for line in caption.splitlines())
    assert "PLACEHOLDER" not in caption


def test_the_tables_of_the_zoo_are_up_to_date():
    """Names, and which figures are known; ``python docs/zoo_table.py --check`` counts as well."""
    from csc_nets.commands.models import FIGURES
    from csc_nets.models import list_models

    page = (DOCS / "zoo.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, re.M) == list_models()
    for name, (data, figure, target) in FIGURES.items():
        (line,) = re.findall(rf"^\| `{name}` \|.*$", page, re.M)
        assert line.endswith(f"[{figure}]({target}) ({data}) |")
