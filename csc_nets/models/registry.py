"""Networks by name: ``register_model``, ``list_models``, ``create_model``."""

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

from csc_nets.functional.checks import as_count, errors_of, is_number
from csc_nets.models.hub import SOURCES
from csc_nets.models.shelf import card, shelved
from csc_nets.models.staged_encoder import FeatureExtractor, StagedEncoder
from csc_nets.models.weights import load_weights
from csc_nets.registry import Part, refuse_taken, unknown_name
from csc_nets.signature import Argument, Signature, check_value, signature_of

__all__ = ["create_model", "is_model", "list_models", "network_signature", "register_model"]


@dataclass(frozen=True)
class _Entry:
    build: Callable[..., StagedEncoder]
    signature: Signature
    in_chans: int
    url: str | None


_SIZES = ("in_chans", "atoms", "kernel_size")

ENTRIES: dict[str, _Entry] = {}
_Build = TypeVar("_Build", bound=Callable[..., StagedEncoder])


@overload
def register_model(build: _Build) -> _Build: ...
@overload
def register_model(*, url: str | None = None) -> Callable[[_Build], _Build]: ...
def register_model(build: Any = None, *, url: str | None = None) -> Any:
    """Decorator that makes a function a network of the zoo, under the function's name.

    The function builds the network. Its keyword arguments are what ``create_model`` accepts; where it ends in
    ``**overrides``, those of the class that it is annotated to return are accepted too.

    Args:
        build: the function, where the decorator stands without parentheses.
        url: where trained weights (a state dict) lie, for ``pretrained=True``.

    Raises:
        ValueError: another module has registered that name.

    Example::

        @register_model
        def csc_tiny(**overrides: Any) -> CSCSmall:
            return CSCSmall(**{"widths": [8, 16, 32], **overrides})
    """

    def register(build: _Build) -> _Build:
        name = build.__name__
        if name in ENTRIES:
            refuse_taken("register_model", name, ENTRIES[name].build.__module__, build.__module__)
        signature = signature_of(build)
        channels = signature.arguments["in_chans"].default if "in_chans" in signature.arguments else 3
        ENTRIES[name] = _Entry(build, signature, channels if isinstance(channels, int) else 3, url)
        return build

    return register if build is None else register(build)


def list_models(
    filter: str | Sequence[str] = "", *, pretrained: bool = False, exclude_filters: str | Sequence[str] = ()
) -> list[str]:
    """Sorted names of the networks.

    Args:
        filter: a part of the name, or a glob such as ``"sdnet*_all"``; of several, one must match.
        pretrained: only networks whose trained weights are known.
        exclude_filters: names that match one of these are left out.

    Example:
        >>> list_models("sdnet*", exclude_filters="*_all")
        ['sdnet18', 'sdnet20', 'sdnet34']
    """
    wanted, unwanted = ([f] if isinstance(f, str) else list(f) for f in (filter, exclude_filters))
    names = [name for name, entry in ENTRIES.items() if not pretrained or entry.url is not None or card(name)]
    return sorted(n for n in names if _matches(n, wanted) and not _matches(n, [f for f in unwanted if f]))


def _matches(name: str, filters: Sequence[str]) -> bool:
    patterns = [f if any(c in f for c in "*?[") else f"*{f}*" for f in filters]
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def is_model(name: str) -> bool:
    """Whether there is a network of this ``name``.

    Example:
        >>> is_model("sdnet18"), is_model("sdnet19")
        (True, False)
    """
    return name in ENTRIES


def network_signature(name: str) -> Signature:
    """What builds the network ``name``, and nothing that reads a file or an address.

    Raises:
        ValueError: unknown name.
    """
    if name not in ENTRIES:
        raise unknown_name("create_model", "model", name, ENTRIES)
    return ENTRIES[name].signature


def create_model(
    name: str,
    pretrained: bool = False,
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    checkpoint_path: str | Path | None = None,
    **overrides: Any,
) -> StagedEncoder:
    """Builds a network by its name.

    Args:
        name: one of :func:`list_models`; or ``"local-dir:FOLDER"``, or ``"hf-hub:OWNER/NAME"`` or
            ``"hf-hub:OWNER/NAME@REVISION"``, for what ``model.save_pretrained`` or ``model.push_to_hub`` wrote.
        pretrained: load the trained weights that are known for this network. Those in the package need no connection;
            ``pretrained_cfg`` says what they were trained on. Defaults are then those of the network that was trained.
        num_classes: classes; None for 10, or those of trained weights. Networks without a classifier leave it aside.
        in_chans: channels of the images; None for what the network was made for, 3 for most.
        features_only: return the stages alone, as a module from images to a list of feature maps.
        out_indices: with ``features_only``, the stages to return (as timm: indices, or how many last ones).
        checkpoint_path: a file with a state dict to load (``torch.save(model.state_dict(), path)``, or safetensors).
        **overrides: arguments of the network, such as ``lam=0.2`` or ``steps=4``.

    Returns:
        The network, with ``model_name`` and ``model_args`` (plain values) set to build it again.

    Raises:
        ValueError: unknown name or override, weights that are not known or do not fit.

    Example:
        >>> import torch
        >>> model = create_model("csc_small", num_classes=5, in_chans=1, widths=[4, 8], lam=0.2)
        >>> model(torch.randn(2, 1, 16, 16)).shape
        torch.Size([2, 5])
    """
    if not isinstance(pretrained, bool):
        raise ValueError(f"create_model: pretrained must be True or False, got {pretrained!r}")
    source, colon, place = name.partition(":")
    if colon:
        if source not in SOURCES:
            raise ValueError(f"create_model: the source of {name!r} must be one of {', '.join(sorted(SOURCES))}")
        sizes = {"num_classes": num_classes, "in_chans": in_chans, "out_indices": out_indices}
        options = {**sizes, "features_only": features_only, "checkpoint_path": checkpoint_path}
        found: StagedEncoder = SOURCES[source](place, pretrained=pretrained, **options, **overrides)
        return found
    if name not in ENTRIES:
        raise unknown_name("create_model", "model", name, ENTRIES)
    entry = ENTRIES[name]
    known = entry.signature.arguments
    unknown = sorted(set(overrides) - set(known))
    if unknown and not entry.signature.is_open:
        accepted = ", ".join(sorted(known))
        raise ValueError(f"create_model: {name} does not accept {', '.join(unknown)}; accepted: {accepted}")
    weights = (entry.url or shelved(name)) if pretrained else None
    if pretrained and weights is None:
        raise ValueError(f"create_model: no pretrained weights are known for {name}; train it, or give checkpoint_path")
    if out_indices is not None and not features_only:
        raise ValueError(f"create_model: out_indices={out_indices!r} needs features_only=True")

    trained = card(name).get("model_args", {}) if weights is not None and entry.url is None else {}
    asked = {k: v for k, v in (("num_classes", num_classes), ("in_chans", in_chans)) if v is not None}
    defaults = {"num_classes": 10, "in_chans": entry.in_chans, **trained, **asked}
    args = {k: _plain(k, v) for k, v in {**defaults, **overrides}.items() if k in known or k in overrides}
    for key, value in args.items():
        _check(f"create_model: {name}", key, value, known.get(key, Argument()))
    model = entry.build(**args)
    model.model_name, model.model_args, model.pretrained_url = name, args, entry.url
    if weights is not None:
        of_weights = {**{k: argument.default for k, argument in known.items()}, "in_chans": entry.in_chans, **trained}
        try:
            load_weights(model, weights)
        except ValueError as error:
            other = {k: v for k, v in args.items() if k in of_weights and v != of_weights[k] and k != "num_classes"}
            if not other:
                raise
            wanted = ", ".join(f"{k}={of_weights[k]!r}" for k in other)
            got = ", ".join(f"{k}={v!r}" for k, v in other.items())
            raise ValueError(f"create_model: the trained weights of {name} are for {wanted}, got {got}") from error
    if checkpoint_path is not None:
        load_weights(model, checkpoint_path)
    if features_only:
        model = FeatureExtractor(model, out_indices)
        model.model_name, model.pretrained_url = name, entry.url
        model.model_args = {**args, "features_only": True, "out_indices": model.out_indices}
    return model


def _check(owner: str, key: str, value: Any, argument: Argument) -> None:
    """Refuses a value of another type than that of the argument, and sizes below 1."""
    with errors_of(owner):
        check_value(key, value, argument)
        for size in value if isinstance(value, list) else [value]:
            if key in _SIZES and is_number(size):  # a network of a plug-in may mean something else by it
                as_count(size, key)


def _plain(key: str, value: Any) -> Any:
    """``value`` in Python's own types, so that a checkpoint can hold it."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(key, v) for k, v in value.items()}
    if isinstance(value, Sequence):
        return [_plain(key, v) for v in value]
    if isinstance(value, Part):
        return _plain(key, value.plain())
    raise ValueError(f"create_model: {key} must be a number, string, list or dict, got {type(value).__name__}")
