"""``csc-nets doctor``: whether the libraries fit together, and what a training finds on this machine."""

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

import torch

from csc_nets.commands.config_folder import config_folder, package_folder, package_version
from csc_nets.data.facts import FACTS

__all__ = ["Finding", "examine", "main"]

_OPTIONAL = {
    "matplotlib": "pictures of reports and sweeps (plots)",
    "wandb": "logger=wandb (wandb)",
    "optuna": "sweep=optuna (sweep)",
}
_OFFSET = 15
"""torchvision 0.N goes with torch 2.(N - 15): 0.21 with 2.6, 0.29 with 2.14."""
_LITTLE = 2 << 30


@dataclass(frozen=True)
class Finding:
    """What one check says.

    Args:
        name: what was looked at.
        state: ``"ok"``, ``"note"`` for what somebody may miss, or ``"wrong"``.
        text: what was found, and what helps.
    """

    name: str
    state: Literal["ok", "note", "wrong"]
    text: str


def main(arguments: Sequence[str]) -> None:
    """Prints a line for each finding.

    Raises:
        SystemExit: something is wrong.
    """
    parser = argparse.ArgumentParser(prog="csc-nets doctor", description="Checks the installation and the machine.")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets (default data)")
    findings = list(examine(parser.parse_args(arguments).data))
    for finding in findings:
        print(f"{finding.state:<6} {finding.name:<14} {finding.text}")
    if any(finding.state == "wrong" for finding in findings):
        sys.exit(1)


def examine(data: Path) -> Iterator[Finding]:
    """All findings. A check that fails itself is one of them.

    Args:
        data: folder of the data sets.
    """
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("csc-nets", _installation),
        ("torch", _torch_and_torchvision),
        ("libraries", _libraries),
        ("GPU", _accelerator),
        ("memory", _memory),
        ("data", lambda: _data(data)),
    ]
    for name, check in checks:
        try:
            yield from check()
        except Exception as error:
            yield Finding(name, "wrong", " ".join(f"{type(error).__name__}: {error}".split()))


def fit(torch_version: str, torchvision_version: str) -> str | None:
    """Why two versions do not fit, or None.

    Args:
        torch_version: such as ``"2.14.1+cpu"``.
        torchvision_version: such as ``"0.29.1+cpu"``.
    """
    (major, minor), (_, vision) = (
        tuple(int(part) for part in full.partition("+")[0].split(".")[:2])
        for full in (torch_version, torchvision_version)
    )
    if major == 2 and vision != minor + _OFFSET:
        return f"torch {torch_version} goes with torchvision 0.{minor + _OFFSET}, not {torchvision_version}"
    ours, theirs = (full.partition("+")[2] for full in (torch_version, torchvision_version))
    if ours and theirs and ours != theirs:
        return f"torch is built for {ours}, torchvision for {theirs}: install both from one index"
    return None


def _installation() -> Iterator[Finding]:
    yield Finding("csc-nets", "ok", f"{package_version()} in {package_folder()}")
    yield Finding("python", "ok", f"{platform.python_version()} in {sys.prefix}")
    yield Finding("configurations", "ok", str(config_folder()))


def _torch_and_torchvision() -> Iterator[Finding]:
    import torchvision

    wrong = fit(torch.__version__, torchvision.__version__)
    if wrong is None:
        # Of all its parts this one shows first that the libraries were built for each other.
        torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    found = f"{torch.__version__}, torchvision {torchvision.__version__}"
    yield Finding("torch", "wrong" if wrong else "ok", wrong or found)


def _libraries() -> Iterator[Finding]:
    needed = [text for text in requires("csc-nets") or [] if "extra ==" not in text]
    for text in needed:
        name, _, least = text.partition(">=")
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Finding(name, "wrong", f"is not installed: pip install '{text}'")
            continue
        if _numbers(found) < _numbers(least):
            yield Finding(name, "wrong", f"{found} is too old: pip install '{text}'")
    yield Finding("libraries", "ok", f"looked at the {len(needed)} that the package needs")
    for name, use in _OPTIONAL.items():
        try:
            yield Finding(name, "ok", version(name))
        except PackageNotFoundError:
            yield Finding(name, "note", f"is not installed, and needed for {use}")


def _accelerator() -> Iterator[Finding]:
    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi"):
            why = "is built without CUDA" if torch.version.cuda is None else "does not find it: is the driver too old?"
            yield Finding("GPU", "note", f"this machine has nvidia-smi, and torch {why}")
        else:
            yield Finding("GPU", "note", "none: trainer=cpu, the default")
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        x = torch.ones(64, 64, device=f"cuda:{index}")
        right = bool((x @ x == 64).all())
        text = f"{torch.cuda.get_device_name(index)}, {_gigabytes(free)} of {_gigabytes(total)} free"
        yield Finding(f"GPU {index}", "ok" if right else "wrong", text if right else f"{text}: its products are wrong")


def _memory() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = torch.get_num_threads()
    yield Finding("cores", "ok", f"{cores}, of which torch uses {threads}")
    if "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", ()):
        page = os.sysconf("SC_PAGE_SIZE")
        free, total = (page * os.sysconf(name) for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES"))
        yield Finding("memory", "ok" if free > _LITTLE else "note", f"{_gigabytes(free)} of {_gigabytes(total)} free")
    disk = shutil.disk_usage(Path.cwd())
    state: Literal["ok", "note"] = "ok" if disk.free > _LITTLE else "note"
    yield Finding("disk", state, f"{_gigabytes(disk.free)} of {_gigabytes(disk.total)} free in {Path.cwd()}")
    if not os.access(Path.cwd(), os.W_OK):
        yield Finding("runs", "wrong", f"{Path.cwd()} cannot be written: run folders are made there")


def _data(folder: Path) -> Iterator[Finding]:
    for name, facts in FACTS.items():
        place = facts.files.partition(":")[0].partition(" and ")[0].rstrip("/")
        if not place:
            continue
        if (folder / place).exists():
            yield Finding(name, "ok", f"lies in {folder / place}")
        else:
            yield Finding(name, "note", f"is not in {folder / place}")


def _numbers(text: str) -> tuple[int, ...]:
    """The first three numbers of a version; what follows a digit in a part (``0rc3``) does not count."""
    parts = text.partition("+")[0].split(".")[:3]
    return tuple(int("".join(c for c in part[:4] if c.isdigit()) or 0) for part in parts)


def _gigabytes(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
