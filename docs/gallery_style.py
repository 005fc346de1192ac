"""One look for the pictures of gallery, README and pages: colours that colour-blind readers tell apart."""

from typing import Any

PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000"]
"""Okabe and Ito's colours, those of ``csc_nets.evaluation`` too."""

SETTINGS: dict[str, Any] = {
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "image.cmap": "gray",
}


def set_style(gallery_conf: Any = None, name: Any = None) -> None:
    """Sets the look; also called before each program of the gallery."""
    import matplotlib as mpl
    import torch

    mpl.rcdefaults()
    mpl.use("agg")
    mpl.rcParams.update(SETTINGS)
    mpl.rcParams["axes.prop_cycle"] = mpl.cycler(color=PALETTE)
    torch.manual_seed(0)
    torch.set_grad_enabled(True)
