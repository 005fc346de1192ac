"""Parts of a layer from outside the package: the files of docs/extending.md, imported as plugins."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from csc_nets import import_plugins
from csc_nets.layers import CSC2d, SparseCoding

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text().split("\n## A model\n")[0]


@pytest.fixture(scope="session")
def own(tmp_path_factory):
    """The classes of these files, by name."""
    folder, classes = tmp_path_factory.mktemp("parts"), {}
    for name, text in re.findall(r"`(\w+)\.py`, \d+ lines:\n\n```python\n(.*?)```", PAGE, re.S):
        (folder / f"{name}.py").write_text(text)
        import_plugins(str(folder / f"{name}.py"))
        members = vars(sys.modules[name]).values()
        classes |= {c.__name__: c for c in members if isinstance(c, type) and c.__module__ == name}
    return SimpleNamespace(**classes)


@pytest.fixture(autouse=True)
def _double():
    """Float64, in which equal things are equal to 1e-10."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def situation():
    """What builds a layer, its signal, and arguments of its forward pass."""

    def situation(name, kind):
        build, x, code = {
            "conv": (lambda **o: CSC2d(2, 6, 3, padding=1, **o), torch.randn(3, 2, 7, 6), (3, 6, 7, 6)),
            "strided": (lambda **o: CSC2d(2, 9, 4, stride=2, **o), torch.randn(3, 2, 8, 8), (3, 9, 3, 3)),
            "dense": (lambda **o: SparseCoding(8, 14, **o), torch.randn(3, 8), (3, 14)),
        }[kind]
        options, arguments = {"lam": 0.1}, {}
        if name in ("ridge", "all"):
            options["ridge"] = 0.3
        if name == "signed":
            options["nonneg"] = False
        if name in ("mask", "all"):
            arguments["mask"] = torch.rand(x.shape) > 0.3
        if name in ("init", "all"):
            arguments["init"] = torch.rand(code)
        if name in ("per sample", "all"):
            arguments["lam"] = torch.tensor([0.05, 0.1, 0.2]).view(3, *(1,) * (x.ndim - 1))
        elif name == "plain":
            options["learn_lam"] = True

        def made(like=None, **more):
            layer = build(**options, **more).eval()
            if like is not None:
                layer.load_state_dict(like.state_dict())
            return layer

        return made, x, arguments

    return situation


@pytest.fixture
def gradients_of():
    """Code of a layer, and its gradients for the signal, the parameters and further tensors."""

    def gradients_of(layer, x, **arguments):
        def fresh(t):
            return t.detach().clone().requires_grad_(t.is_floating_point() or t.is_complex())

        x, arguments = fresh(x), {key: fresh(value) for key, value in arguments.items()}
        z = layer(x, **arguments)
        weight = torch.randn(z.shape, dtype=z.dtype, generator=torch.Generator().manual_seed(5))
        wanted = [x, *layer.parameters(), *(t for t in arguments.values() if t.requires_grad)]
        return z.detach(), torch.autograd.grad((weight * z).real.sum(), wanted, allow_unused=True)

    return gradients_of


@pytest.fixture
def alike():
    """Asserts that two codes and their gradients are equal."""

    def alike(one, other, tol=1e-10):
        (z, found), (y, expected) = one, other
        torch.testing.assert_close(z, y, atol=tol, rtol=tol)
        for g, h in zip(found, expected, strict=True):
            assert (g is None) == (h is None)
            if g is not None:
                torch.testing.assert_close(g, h, atol=tol, rtol=tol)

    return alike
