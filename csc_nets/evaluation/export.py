"""Trained networks as graphs for other programs: ONNX, and torch.export."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from csc_nets.tasks.safe_files import written_whole

__all__ = ["FORMATS", "export_network"]

FORMATS = {"onnx": ".onnx", "torch": ".pt2"}
"""Formats, and the endings of their files."""


def export_network(
    network: nn.Module, file: Path, input_size: Sequence[int], *, form: str = "onnx", free: bool = True, check: int = 3
) -> float:
    """Writes a network as a graph, and compares what the graph computes with the network.

    Args:
        network: from images ``(N, C, H, W)`` to a tensor. It is put in evaluation mode.
        file: where to.
        input_size: ``(C, H, W)`` of the example.
        form: ``"onnx"``, which onnxruntime and others read; or ``"torch"``, which ``torch.export.load`` reads.
        free: images of every height and width, in batches of every size; False leaves the batch size free alone.
        check: images of this many sizes are compared. 0 for none.

    Returns:
        The largest difference over the largest output, of all images compared; NaN without a check.

    Raises:
        ValueError: an unknown format, a folder for a file, or a network that cannot be saved so. An earlier file stays.
        OSError: the file cannot be written.
        ImportError: ONNX needs onnx and onnxscript, its check onnxruntime.
    """
    if form not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {form!r}")
    network = network.eval()
    if file.is_dir():
        raise ValueError(f"file must be the name of a file, got the folder {file}")
    try:
        with written_whole(file.parent) as folder, torch.no_grad():
            return _compare(network, folder / file.name, input_size, form, free, check)
    except (OSError, ImportError):
        raise
    except Exception as error:  # exporters raise errors of many types, the cause last
        first: BaseException = error
        while first.__cause__ is not None:
            first = first.__cause__
        hint = "; without free sizes, free=False, it may be" if free else ""
        reason = (str(first).strip() or type(first).__name__).splitlines()[0]
        raise ValueError(f"{type(network).__name__} cannot be saved as a graph{hint}: {reason}") from error


def _compare(network: nn.Module, file: Path, input_size: Sequence[int], form: str, free: bool, check: int) -> float:
    axes = [0, 2, 3] if free else [0]
    example = torch.randn(2, *input_size, device=next(network.parameters()).device)
    shapes = (dict.fromkeys(axes, torch.export.Dim.DYNAMIC),)
    program = torch.export.export(network, (example,), dynamic_shapes=shapes, strict=False)
    if form == "torch":
        run: Callable[[torch.Tensor], torch.Tensor] = _write(program, file)
    else:
        saved = torch.onnx.export(program, dynamo=True, verbose=False)
        assert saved is not None
        saved.save(file)
        if check:
            from onnxruntime import InferenceSession

            session = InferenceSession(str(file))
            name = session.get_inputs()[0].name
            run = lambda x: torch.from_numpy(session.run(None, {name: x.cpu().numpy()})[0])  # noqa: E731
    worst = float("nan")
    for i in range(check):
        grown = [n + (i * (7 + 4 * axis) if free else 0) for axis, n in enumerate(input_size[1:])]
        x = torch.randn(1 + i, input_size[0], *grown, device=example.device)
        ours, theirs = network(x).cpu(), run(x).cpu()
        off = ((ours - theirs).abs().max() / ours.abs().max().clamp_min(1e-12)).item()
        worst = off if worst != worst else max(worst, off)
    return worst


def _write(program: torch.export.ExportedProgram, file: Path) -> Any:
    """Writes a graph, and reads it again."""
    try:
        torch.export.save(program, file)
        return torch.export.load(file).module()
    except Exception:  # parts without autocast: torch 2.6 reads none of them, later ones none with complex numbers
        torch.export.save(program.run_decompositions({}), file)
        return torch.export.load(file).module()
