"""The rules of the house: which room may import which, what an import costs, how long a file may be.

The rules are read off the source, so that an import inside a function counts as one at the top of the file does.
"""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "csc_nets"

ROOMS = [
    {"registry", "plugins", "memory", "signature"},  # of the standard library alone
    {"reading"},
    {"functional"},
    {"layers"},
    {"theory"},
    {"conversion"},
    {"models"},
    {"checkpoint"},
    {"data"},
    {"tasks"},
    {"pages"},
    {"evaluation", "sweeps"},
    {"cli"},
    {"commands"},
    {"__main__"},
]
"""From the ground floor up: a room imports from the rooms before it."""

CORE = {
    "registry",
    "plugins",
    "signature",
    "reading",
    "functional",
    "layers",
    "theory",
    "conversion",
    "models",
    "checkpoint",
}
"""What ``import csc_nets`` brings: torch, and nothing else that must be installed."""

OPTIONAL = {
    "csc_nets.functional.kernels.triton_kernels": {"triton"},  # comes with torch where there is an accelerator
    "csc_nets.models.hub": {"huggingface_hub", "safetensors"},  # files and addresses of networks
    "csc_nets.functional.wavelets.filter_bank": {"kymatio"},  # its filters, for comparison
}
"""Further packages of the core; each module is imported, or imports them, when they are asked for."""

HEAVY = ["lightning", "hydra", "wandb", "torchvision", "torchmetrics", "matplotlib", "sklearn", "scipy", "PIL", "yaml"]
LONGEST, MEDIAN = 500, 150


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}
PROGRAMS = [
    *(file for folder in ("tests", "benchmarks", "docs") for file in sorted((ROOT / folder).rglob("*.py"))),
    *sorted(ROOT.glob("*.py")),
]


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def imports_of(file: Path) -> list[tuple[str, str | None]]:
    """``(module, name)`` for ``from module import name``, ``(module, None)`` for ``import module``; at any depth."""
    found: list[tuple[str, str | None]] = []
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: write the whole name of a module, not a relative one"
            found += [(node.module or "", alias.name) for alias in node.names]
    return found


def needed_by(module: str) -> set[str]:
    """Modules of the package that a module imports; of a package that is imported from, the part where there is one."""
    found = set()
    for owner, name in imports_of(MODULES[module]):
        if owner.split(".")[0] == "csc_nets":
            part = f"{owner}.{name}"
            found.add(part if part in MODULES else owner)
    return found


def room_of(module: str) -> str:
    return module.split(".")[1]


def floor_of(module: str) -> int:
    return next(i for i, rooms in enumerate(ROOMS) if room_of(module) in rooms)


INSIDE = [module for module in MODULES if module != "csc_nets"]


def test_every_room_has_its_floor():
    assert {room_of(module) for module in INSIDE} == set().union(*ROOMS)


def test_a_room_imports_from_the_rooms_below():
    wrong = [
        f"{module} imports {needed}"
        for module in INSIDE
        for needed in needed_by(module)
        if needed == "csc_nets" or (floor_of(needed) >= floor_of(module) and room_of(needed) != room_of(module))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_module_is_imported_by_what_it_imports():
    order: list[str] = []
    path: list[str] = []

    def visit(module: str) -> None:
        assert module not in path, " imports ".join([*path[path.index(module) :], module])
        if module not in order:
            path.append(module)
            for needed in sorted(needed_by(module)):
                visit(needed)
            order.append(path.pop())

    for module in MODULES:
        visit(module)
    assert sorted(order) == sorted(MODULES)


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@pytest.mark.parametrize("files", [list(MODULES.values()), PROGRAMS], ids=["package", "programs"])
def test_no_private_name_crosses_a_file(files):
    wrong = []
    for file in files:
        own: dict[str, str] = {}  # modules of the package, under the names that the file has for them
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "csc_nets":
                names = [*str(node.module).split("."), *(alias.name for alias in node.names)]
                wrong += [f"{file.relative_to(ROOT)} imports {name}" for name in names if private(name)]
                for alias in node.names:
                    if f"{node.module}.{alias.name}" in MODULES:
                        own[alias.asname or alias.name] = alias.name
        for node in ast.walk(tree_of(file)):
            if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
                continue
            if node.value.id in own and private(node.attr):
                wrong.append(f"{file.relative_to(ROOT)} reads {node.value.id}.{node.attr}")
    assert not wrong, "\n".join(wrong)


def test_files_are_short():
    lengths = {file: len(file.read_text().splitlines()) for file in [*MODULES.values(), *PROGRAMS]}
    assert not {str(file.relative_to(ROOT)): n for file, n in lengths.items() if n > LONGEST}
    assert median(lengths[file] for file in MODULES.values()) < MEDIAN


def test_no_file_is_a_drawer():
    assert not {file.stem for file in MODULES.values()} & {"utils", "util", "misc", "helpers", "common"}


def test_the_core_imports_torch_and_nothing_else():
    wrong = [
        f"{module} imports {owner}"
        for module in INSIDE
        if room_of(module) in CORE
        for owner in {owner.split(".")[0] for owner, _ in imports_of(MODULES[module])}
        if owner not in sys.stdlib_module_names | {"torch", "csc_nets"} | OPTIONAL.get(module, set())
    ]
    assert not wrong, "\n".join(wrong)


def test_importing_the_core_is_cheap():
    rooms = ", ".join(f"csc_nets.{room}" for room in sorted(CORE))
    program = f"import sys, {rooms}; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []


def test_types_are_published():
    assert (PACKAGE / "py.typed").is_file()
    assert 'csc_nets = ["py.typed", "weights/*", "pages/*.j2"]' in (ROOT / "pyproject.toml").read_text()
