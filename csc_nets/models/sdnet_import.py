"""SDNet's public checkpoints as networks of the zoo."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Unpack, cast

import torch
from torch import Tensor

from csc_nets.layers import CodingOptions, CSC2d
from csc_nets.models.registry import create_model
from csc_nets.models.sdnet import SDNet

__all__ = ["import_sdnet"]

# Their names, as far as they differ, and ours. A block of an "all" network lies one level deeper, in "layers".
_RENAMES = (
    (r"^module\.", ""),
    (r"^layer0\.0\.dn\.", "stages.0.0."),
    (r"^layer0\.1\.", "stages.0.1."),
    (r"^layer0\.2\.dn\.", "stages.0.3."),
    (r"^layer(\d+)\.(?:layers\.)?(\d+)\.", r"stages.\1.\2."),
    (r"\.conv1\.(?:dn\.)?", ".body.0."),
    (r"\.bn1\.", ".body.1."),
    (r"\.conv2\.(?:dn\.)?", ".body.3."),
    (r"\.bn2\.", ".body.4."),
    (r"^linear\.", "fc."),
)
_ATOMS, _STEP_SIZE = "dictionary.parametrizations.weight.original", "given_step_size"


def import_sdnet(state: Mapping[str, Any], **options: Unpack[CodingOptions]) -> SDNet:
    r"""The network of a checkpoint of SDNet's public code (github.com/Delay-Xili/SDNet).

    Shapes and names say which network it is: SDNet or SDNet-all of any depth, for small or large images, with or
    without shortcuts. Each layer keeps the step size that the checkpoint holds, :math:`0.9 / L` for the L of its last
    batch, until one assigns ``layer.step_size = None``. What the checkpoint does not say are the options of the
    coding: the published networks have ``lam=0.1`` and ``steps=2``, the defaults. Their code steps with a momentum that
    is not FISTA's, which shows from the third step on: ``pursuit="sdnet"`` takes it as it is.

    The threshold is ``lam`` times the step size. Their code keeps it outside of the state dict: loaded there, a network
    has the threshold of its start until its step sizes are renewed.

    Args:
        state: a state dict, or a training checkpoint with one under ``"state_dict"``.
        **options: of every coding layer; see :class:`~csc_nets.layers.CodingOptions`.

    Returns:
        The network in evaluation mode, in the precision of the checkpoint.

    Raises:
        ValueError: no checkpoint of SDNet, or one with ``EXPANSION_FACTOR`` above 1. ``POOLING`` and ``SQUARE_NOISE``
            leave no trace in a checkpoint; those of the published networks are meant.

    Example::

        state = torch.load("sdnet18_cifar10.pth.tar", weights_only=True)
        network = import_sdnet(state)
    """
    state = state.get("state_dict", state)
    found = {_renamed(key): value for key, value in state.items()}
    stem = found.get("stages.0.0.weight")
    if stem is None or "fc.weight" not in found or not any(key.endswith(".step_size") for key in found):
        raise ValueError(f"import_sdnet: expected names of SDNet such as layer0.0.dn.weight, got {list(state)[:3]}")
    coded = [key.removesuffix("step_size") for key in found if key.endswith(".step_size")]
    blocks = sorted({(int(s), int(b)) for s, b in re.findall(r"stages\.(\d+)\.(\d+)\.body", " ".join(found))})
    depths = [sum(stage == i for stage, _ in blocks) for i in range(1, blocks[-1][0] + 1)]
    everywhere = "stages.1.0.body.0." in coded
    network = create_model(
        "sdnet34" if tuple(depths) == (3, 4, 6, 3) else "sdnet18",
        num_classes=len(found["fc.weight"]),
        in_chans=stem.shape[1],
        coding="all" if everywhere else "stem",
        stem="imagenet" if stem.shape[2] == 7 else "cifar",
        shortcut=not everywhere or any(".shortcut." in key for key in found),
        widths=[len(found[f"stages.{i}.0.body.0.weight"]) for i in range(1, len(depths) + 1)],
        depths=depths,
        **options,
    )
    network = network.to(stem.dtype)
    for prefix in coded:
        found[prefix + _ATOMS] = found.pop(f"{prefix}weight")
        found[prefix + _STEP_SIZE] = found.pop(f"{prefix}step_size")
    _load(network, found, coded)
    for module in network.modules():
        if isinstance(module, CSC2d):
            lam: Any = options.get("lam", 0.1)
            module.lam = lam  # in this precision; it was made in another
            module.dictionary.refresh()
    return cast(SDNet, network.eval())


def _renamed(key: str) -> str:
    for pattern, name in _RENAMES:
        key = re.sub(pattern, name, key, count=1)
    return key


def _load(network: torch.nn.Module, found: dict[str, Tensor], coded: Sequence[str]) -> None:
    """Everything; of coded layers what there is, for bounds of their norms are computed and options were given."""
    own = network.state_dict()
    for key, value in found.items():
        if key in own and own[key].shape != value.shape:
            raise ValueError(
                f"import_sdnet: {key} must have shape {tuple(own[key].shape)}, got {tuple(value.shape)}; "
                "EXPANSION_FACTOR above 1 and other widths of the stem are not known here"
            )
    missing, unexpected = network.load_state_dict(found, strict=False)
    missing = [key for key in missing if not key.startswith(tuple(coded))]
    if missing or unexpected:
        raise ValueError(f"import_sdnet: tensors are missing: {missing[:5]}, or have no place: {unexpected[:5]}")
