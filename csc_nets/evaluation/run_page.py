"""``report=page``: what is known of a run, as one HTML file."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from csc_nets.evaluation.page_blocks import code_blocks, error_blocks, reconstruction_block, theory_blocks
from csc_nets.evaluation.report_input import ReportInput, Result
from csc_nets.pages import Block, Page, command, lines, render

__all__ = ["page", "save_comparison"]

NUMBERS = {
    "test/acc": ("test accuracy", "{:.2%}"),
    "test/psnr": ("test PSNR", "{:.2f} dB"),
    "test/ssim": ("test SSIM", "{:.4f}"),
    "test/objective": ("test objective", "{:.4g}"),
    "test/density": ("density of the codes", "{:.1%}"),
    "test/reconstruction_error": ("reconstruction error", "{:.3f}"),
    "training_seconds": ("training time", "{:.0f} s"),
}
CURVES = {"train/loss": "loss", "val/loss": "loss", "val/acc": "accuracy", "val/psnr": "PSNR (dB)", "val/ssim": "SSIM"}
OWN = ("page", "page_of_runs")
"""Reports that would show themselves."""


def page(given: ReportInput) -> Result:
    """What was trained on what, curves, errors, atoms, codes, reconstructions, theory, energy, time, the command."""
    found = _page(given)
    file = given.picture.with_suffix(".html")
    render([found], file, title=found.name, shared=_curves([(found.name, given)]))
    rows = [{"name": block.title, "value": len(block.body)} for block in found.blocks]
    lines_ = [found.summary, *(f"{name:<24}{value}" for name, value in found.numbers.items()), "", f"page {file}"]
    return "\n".join(lines_), rows


def save_comparison(inputs: Sequence[ReportInput], file: Path) -> str:
    """Writes a page that puts several runs side by side.

    Args:
        inputs: of each run, as a report is given.
        file: to write.

    Returns:
        What to print.
    """
    pages = [_page(given) for given in inputs]
    shared = _curves([(found.name, given) for found, given in zip(pages, inputs, strict=True)])
    render(pages, file, title=f"{len(pages)} runs", shared=shared)
    return "\n".join([*(f"{found.name}: {found.summary}" for found in pages), "", f"page {file}"])


def _page(given: ReportInput) -> Page:
    config, numbers = _config(given.run), _numbers(given.run)
    name = given.run.name if given.run else given.data.name
    blocks = list(_blocks(given, config))
    shown = {label: form.format(numbers[key]) for key, (label, form) in NUMBERS.items() if numbers.get(key) is not None}
    shown |= {"parameters": f"{sum(p.numel() for p in given.model.parameters()):,}"}
    speed, memory = _cost(given)
    shown |= {"images a second, here": f"{speed:.0f}"} | ({"memory at its most": memory} if memory else {})
    return Page(name, _summary(given, config), shown, blocks)


def _blocks(given: ReportInput, config: dict[str, Any]) -> Iterator[Block]:
    yield from error_blocks(given)
    yield from code_blocks(given)
    yield from reconstruction_block(given)
    yield from theory_blocks(given)
    if given.run:
        folder = given.run / "reports"
        texts = [f for pattern in ("*.txt", "*/*.txt") for f in sorted(folder.glob(pattern)) if f.stem not in OWN]
        for file in texts:
            asked = "" if file.parent == folder else f", {file.parent.name}"
            title, caption = f"Report {file.stem}{asked}", "Measured by another report of this run."
            yield Block(title, command(file.read_text()[:20_000]), caption)
    if config:
        yield Block(
            "Get it again", command(_command(config)), "Every option as it was; the data have to lie where they lay."
        )


def _summary(given: ReportInput, config: dict[str, Any]) -> str:
    given.data.setup()
    shape = " x ".join(map(str, given.shown().shape[1:]))
    counts = []
    for split in ("train", "val", "test"):
        stored: Any = given.data.split(split)
        counts.append(f"{stored.length if hasattr(stored, 'length') else len(stored.labels):,} {split}")
    what = config.get("model", {}).get("name", type(given.model).__name__)
    text = f"{what} on {given.data.name}: images of {shape}, {', '.join(counts)}"
    trainer = config.get("trainer", {})
    return f"{text}; {trainer.get('max_epochs')} epochs, seed {config.get('seed')}." if config else f"{text}."


def _curves(runs: Sequence[tuple[str, ReportInput]]) -> list[Block]:
    """One chart for each kind of number, all runs in it."""
    charts: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name, given in runs:
        file = given.run / "metrics.csv" if given.run else None
        if file is None or not file.is_file():
            continue
        with file.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        for key, kind in CURVES.items():
            points = [(float(row["epoch"]) + 1, float(row[key])) for row in rows if row.get(key) and row.get("epoch")]
            if points:
                label = key if len(runs) == 1 else f"{name} {key}"
                charts.setdefault(kind, {})[label] = points
    bodies = [
        lines(series, title=f"{kind} over epochs: {', '.join(series)}", x="epoch", y=kind)
        for kind, series in charts.items()
    ]
    caption = "Validation should follow training; the best validation score chose the checkpoint."
    return [Block("Training", "".join(bodies), caption)] if bodies else []


@torch.no_grad()
def _cost(given: ReportInput) -> tuple[float, str]:
    """Images a second of this network on this machine, and the most memory that this process has taken."""
    import time

    images, _ = next(given.batches("test"))
    given.model(images)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < 0.5:
        given.model(images)
        done += len(images)
    speed = done / (time.perf_counter() - start)
    if given.device.type == "cuda":
        return speed, f"{torch.cuda.max_memory_allocated(given.device) / 2**20:.0f} MiB"
    try:
        import resource

        return speed, f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MiB"
    except ImportError:  # not on Windows
        return speed, ""


def _command(config: dict[str, Any]) -> str:
    """The command line with every option."""
    groups = ("data", "model", "task")
    chosen = [f"{group}={config[group]['name']}" for group in groups if group in config]
    top = [key for key in ("seed", "compile", "channels_last", "plugins") if config.get(key) not in (None, [], False)]
    options = [f"{key}={_value(config[key])}" for key in top]
    for group in (*groups, "trainer", "callbacks"):
        options += [f"{group}.{key}={_value(v)}" for key, v in config.get(group, {}).items() if key != "name"]
    quoted = [f"'{text}'" if set(text) & set("[]{} ,") else text for text in options]
    return " ".join(["python train.py", *chosen, *quoted])


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_value, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_value(v)}" for key, v in value.items()) + "}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _config(run: Path | None) -> dict[str, Any]:
    file = run / "config.yaml" if run else None
    return yaml.safe_load(file.read_text()) if file and file.is_file() else {}


def _numbers(run: Path | None) -> dict[str, Any]:
    file = run / "metrics.json" if run else None
    return json.loads(file.read_text()) if file and file.is_file() else {}
