"""CRATE's public checkpoints as networks of the zoo."""

import re
from collections.abc import Mapping
from typing import Any, Unpack, cast

from csc_nets.layers import CodingOptions
from csc_nets.models.crate import CRATE
from csc_nets.models.registry import create_model

__all__ = ["import_crate"]

# Their names, and ours.
_RENAMES = (
    (r"^module\.", ""),
    (r"^to_patch_embedding\.1\.", "stages.0.norm."),
    (r"^to_patch_embedding\.2\.", "stages.0.project."),
    (r"^to_patch_embedding\.3\.", "stages.0.token_norm."),
    (r"^pos_embedding$", "stages.0.position"),
    (r"^cls_token$", "stages.0.class_token"),
    (r"(layers\.\d+)\.0\.norm\.", r"\1.attention_norm."),
    (r"(layers\.\d+)\.0\.fn\.qkv\.", r"\1.attention.subspaces."),
    (r"(layers\.\d+)\.0\.fn\.to_out\.0\.", r"\1.attention.back."),
    (r"(layers\.\d+)\.1\.norm\.", r"\1.coder_norm."),
    (r"(layers\.\d+)\.1\.fn\.weight$", r"\1.coder.dictionary.weight"),
    (r"^mlp_head\.0\.", "norm."),
    (r"^mlp_head\.1\.", "fc."),
)
_BLOCK = re.compile(r"^transformer\.layers\.(\d+)")
_NAMES = {384: "crate_tiny", 576: "crate_small", 768: "crate_base", 1024: "crate_large"}


def import_crate(
    state: Mapping[str, Any], *, heads: int | None = None, in_chans: int = 3, **options: Unpack[CodingOptions]
) -> CRATE:
    """The network of a checkpoint of CRATE's public code (github.com/Ma-Lab-Berkeley/CRATE).

    Their dictionary is a matrix with the atoms in its columns; ours has them in its rows. What the checkpoint does not
    say are its heads and the options of the coding: the published networks have a ``step_size`` and a ``lam`` of 0.1
    and one step, the defaults.

    Args:
        state: a state dict, or a training checkpoint with one under ``"state_dict"``.
        heads: of each attention; None for those of the published network with tokens of this length.
        in_chans: channels of its images.
        **options: of every coding layer; see :class:`~csc_nets.layers.CodingOptions`.

    Returns:
        The network in evaluation mode, in the precision of the checkpoint.

    Raises:
        ValueError: no checkpoint of CRATE, or one whose heads are not known.

    Example::

        network = import_crate(torch.load("crate_small.pth", weights_only=True))
    """
    state = state.get("state_dict", state)
    found = {_renamed(key): value for key, value in state.items()}
    needed = ("stages.0.position", "stages.0.project.weight", "fc.weight")
    if any(key not in found for key in needed):
        raise ValueError(f"import_crate: expected names of CRATE such as pos_embedding, got {list(state)[:3]}")
    position, project, classifier = (found[key] for key in needed)
    width, depth = position.shape[2], max(int(key.split(".")[1]) for key in found if key.startswith("stages."))
    if heads is None and width not in _NAMES:
        raise ValueError(f"import_crate: give heads, which are not known for tokens of length {width}")
    patch = round((project.shape[1] / in_chans) ** 0.5)
    sizes = {"width": width, "depth": depth, "patch_size": patch}
    sizes["input_size"] = patch * round((position.shape[1] - 1) ** 0.5)
    sizes |= {} if heads is None else {"heads": heads}
    name = _NAMES.get(width, "crate_cifar")
    network = create_model(name, num_classes=len(classifier), in_chans=in_chans, **sizes, **options)
    network = network.to(position.dtype)
    for key in found:
        if key.endswith("dictionary.weight"):
            found[key] = found[key].T
    own = set(network.state_dict())
    missing = [key for key, _ in network.named_parameters() if key not in found]
    unexpected = [key for key in found if key not in own]
    if missing or unexpected:
        raise ValueError(f"import_crate: tensors are missing: {missing[:5]}, or have no place: {unexpected[:5]}")
    network.load_state_dict(found, strict=False)
    for block in network.stages[1:]:
        coder: Any = block.coder  # its numbers in this precision; they were made in another
        coder.lam = options.get("lam", 0.1)
        coder.step_size = options.get("step_size", 0.1)
    return cast(CRATE, network.eval())


def _renamed(key: str) -> str:
    for pattern, name in _RENAMES:
        key = re.sub(pattern, name, key, count=1)
    return _BLOCK.sub(lambda found: f"stages.{int(found[1]) + 1}", key)
