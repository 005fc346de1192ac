"""Writes the tables of the zoo: docs/zoo.md, all networks, and the short one between the marks of README.md.

    python docs/zoo_table.py [--check]

Parameters and multiplications are counted; what a network reached is ``csc_nets.commands.models.FIGURES``. With
``--check`` nothing is written, and the exit status is 1 where a table is out of date.
"""

import argparse
import sys
from pathlib import Path

from csc_nets.commands.models import FIGURES, summary
from csc_nets.models import list_models

ROOT = Path(__file__).parents[1]
SHORT = {
    "csc_small": "three stages of sparse coding, for small images; the default",
    "sdnet18_all": "ResNet-18 whose 3 x 3 layers are sparse coding",
    "ml_csc_mnist": "all layers solved together",
    "cdlnet": "denoiser for all noise levels, weights in the package",
    "sparse_autoencoder": "few numbers for an image, any rate",
    "csc_ctrl_32": "features and images back, by closed-loop transcription",
    "scattering": "wavelets and a linear classifier",
}
"""Networks of README's table, and what each is in half a line."""
BEGIN, END = "<!-- zoo: python docs/zoo_table.py -->", "<!-- /zoo -->"


def reached(name: str, folder: str) -> str:
    """What a network reached on which data, as a link to the page that says how."""
    if name not in FIGURES:
        return ""
    data, figure, page = FIGURES[name]
    return f"[{figure}]({folder}{page}) ({data})"


def short_table() -> str:
    """For README: one line a network."""
    lines = ["| network | what it is | parameters | multiplications | reached |", "|---|---|---|---|---|"]
    for name, text in SHORT.items():
        parameters, macs, image, *_ = summary(name)
        lines.append(f"| `{name}` | {text} | {parameters} | {macs} ({image}) | {reached(name, 'docs/')} |")
    return "\n".join(lines)


def long_page() -> str:
    """docs/zoo.md."""
    lines = [
        "# The zoo",
        "",
        "`csc_nets.create_model(name, num_classes=10, in_chans=3)` builds a network; `csc-nets models` prints them.",
        "Parameters are for 10 classes. Multiplications are those of one image of the given size, with all steps.",
        "What a network reached is the least of several seeds, where there are several. The page behind the link",
        "has the command and the machine. Networks without a figure have not been trained to the end here.",
        "",
        "| network | what it is | parameters | multiplications | image | reached |",
        "|---|---|---|---|---|---|",
    ]
    for name in list_models():
        parameters, macs, image, _, text = summary(name)
        text = text.replace("|", "\\|").replace("`", "")
        lines.append(f"| `{name}` | {text} | {parameters} | {macs} | {image} | {reached(name, '')} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--check", action="store_true", help="write nothing; exit status 1 where a table is old")
    check = options.parse_args().check
    readme = (ROOT / "README.md").read_text()
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    wanted = {
        ROOT / "README.md": f"{before}{BEGIN}\n\n{short_table()}\n\n{END}{after}",
        ROOT / "docs" / "zoo.md": long_page(),
    }
    for file, text in wanted.items():
        if file.read_text() == text:
            continue
        if check:
            sys.exit(f"error: {file.relative_to(ROOT)} is out of date: python docs/zoo_table.py")
        file.write_text(text)


if __name__ == "__main__":
    main()
