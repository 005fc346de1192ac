"""Every public name says what it is, what its arguments are, and the main ones have an example that runs."""

import importlib
import inspect
import re

import pytest

ROOMS = [
    "csc_nets",
    "csc_nets.functional",
    "csc_nets.layers",
    "csc_nets.theory",
    "csc_nets.conversion",
    "csc_nets.models",
    "csc_nets.checkpoint",
    "csc_nets.data",
    "csc_nets.tasks",
    "csc_nets.pages",
    "csc_nets.evaluation",
    "csc_nets.evaluation.attacks",
    "csc_nets.sweeps",
]
MAIN = {
    "CSC",
    "CSC1d",
    "CSC2d",
    "CSC3d",
    "Dictionary2d",
    "SparseCoding",
    "convert",
    "create_model",
    "is_model",
    "list_models",
    "load",
    "mutual_coherence",
    "rate_reduction",
    "report",
    "solve",
    "unit_norm",
}
"""Names that most programs begin with."""
REFERENCE = re.compile(r":(func|class|meth|mod):`|[Aa]s for |as ``nn\.|As `|See `")
"""A docstring may say where its arguments are described."""
SHAPE = re.compile(r"\((\*|\.\.\., )?[A-Za-z][\w'*]*,|``\(\*?[A-Za-z]\)|``\(\d|[Ss]hape|0-d|per sample|[Aa] number")
WITHOUT_SHAPES = {"activation", "find_code_layers", "network_weights"}
"""Of any tensor of a network, of layers, of all tensors together."""
AS_IN_TORCH = {"device", "dtype"}


def public():
    found = {}
    for room in ROOMS:
        module = importlib.import_module(room)
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isroutine(value):
                found.setdefault(id(value), (name, value))
    return sorted(found.values(), key=lambda pair: pair[0])


def text_of(value):
    texts = [inspect.getdoc(value) or ""]
    if inspect.isclass(value):
        texts += [inspect.getdoc(base) or "" for base in value.__mro__[1:] if base.__module__.startswith("csc_nets.")]
        texts.append(inspect.getdoc(value.__init__) or "")
    return "\n".join(texts)


def test_every_public_name_has_a_docstring_of_its_own():
    without = [
        name for name, value in public() if not value.__doc__ or not re.search(r"\w{3}.*[.:]", value.__doc__, re.S)
    ]
    assert not without


def test_every_argument_is_described():
    """By its name in the text, or by a reference to where it is described."""
    missing = []
    for name, value in public():
        try:
            parameters = inspect.signature(value).parameters.values()
        except (TypeError, ValueError):
            continue
        text = text_of(value)
        names = {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)} - AS_IN_TORCH
        lost = sorted(argument for argument in names if not re.search(rf"\b{re.escape(argument)}\b", text))
        if lost and not REFERENCE.search(text):
            missing.append(f"{name}: {', '.join(lost)}")
    assert not missing, "\n".join(missing)


def test_every_tensor_has_a_shape():
    """Where a public name takes or gives tensors, its text has a shape such as ``(N, C, *S)`` or names its place."""
    missing = []
    for name, value in public():
        call = value.forward if inspect.isclass(value) and hasattr(value, "forward") else value
        try:
            signature = inspect.signature(call)
        except (TypeError, ValueError):
            continue
        hints = [p.annotation for key, p in signature.parameters.items() if key != "self"]
        if any("Tensor" in str(hint) for hint in [*hints, signature.return_annotation]):
            text = text_of(value) + (inspect.getdoc(call) or "")
            if name not in WITHOUT_SHAPES and not SHAPE.search(text) and not REFERENCE.search(text):
                missing.append(name)
    assert not missing


@pytest.mark.parametrize("name", sorted(MAIN))
def test_the_main_names_have_an_example(name):
    """Doctests run with the suite."""
    values = [value for found, value in public() if found == name]
    assert any(">>>" in (inspect.getdoc(value) or "") for value in values)


def test_help_of_a_layer_opens_with_what_it_is_and_how_to_use_it():
    from csc_nets.layers import CSC2d

    first, blank, *use = inspect.getdoc(CSC2d).splitlines()[:4]
    assert first.startswith("Convolutional sparse coding") and not blank
    assert "CSC2d(3, 64, 3, padding=1, lam=0.1)" in use[0] and "layer.synthesize(z, x.shape[2:])" in use[1]
