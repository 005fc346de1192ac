"""The sparse codes of every image of a folder, in files."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from csc_nets.data.batches import StreamBatches
from csc_nets.data.files import MODES, FileList, ImageFiles, central_square, find_classes, find_images
from csc_nets.data.preprocess import Preprocess
from csc_nets.data.sampling import EpochSampler
from csc_nets.functional import SparseCode
from csc_nets.layers import encode_tiles
from csc_nets.layers.csc import ConvCSC
from csc_nets.layers.tiles import BUDGET, chain
from csc_nets.reading import read_torch_file

__all__ = ["EncodedImages", "encode_folder", "folder_images", "read_codes"]


class EncodedImages(NamedTuple):
    """One file of codes: which images, and their codes ``(N, M, H', W')``."""

    files: list[str]
    code: SparseCode


def folder_images(
    root: str | Path,
    *,
    image_size: int | None = None,
    in_chans: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    batch_size: int = 32,
    num_workers: int = 1,
    device: str | torch.device = "cpu",
) -> tuple[FileList, StreamBatches]:
    """The images of a folder as normalised batches, which worker processes read and decode ahead.

    Args:
        root: folder with images, in sub-folders or not.
        image_size: central squares of so many pixels; None for images as they are, one in a batch.
        in_chans: 1 for grey, 3 for colour.
        mean, std: of each channel where white is 1; None for 0 and 1.
        batch_size: images in a batch.
        num_workers: worker processes; 0 reads in this process.
        device: where batches are made.

    Raises:
        FileNotFoundError: no such folder, or no images in it.
        ValueError: an argument out of range; while reading, a file that is not an image.
    """
    if in_chans not in MODES:
        raise ValueError(f"encode_folder: in_chans must be 1 or 3, got {in_chans!r}")
    for name, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"encode_folder: {name} must be an int >= {least}, got {value!r}")
    files = find_images("encode_folder", Path(root), find_classes("encode_folder", Path(root)))
    transform = _as_it_is if image_size is None else partial(central_square, size=image_size, share=1.0)
    batches = StreamBatches(
        ImageFiles("encode_folder", files, transform, in_chans),
        EpochSampler(len(files.paths), shuffle=False),
        1 if image_size is None else batch_size,
        Preprocess(mean or (0.0,) * in_chans, std or (1.0,) * in_chans, white=255.0),
        drop_last=False,
        device=torch.device(device),
        num_workers=num_workers,
    )
    return files, batches


def encode_folder(
    encoder: nn.Module,
    root: str | Path,
    out: str | Path,
    *,
    lam: float | Tensor | None = None,
    budget: float = BUDGET,
    num_workers: int = 1,
    **options: object,
) -> Iterator[Path]:
    """Codes every image of a folder and writes the non-zeros, while worker processes read the next ones.

    Images larger than the budget are coded in tiles. The code is that of the last CSC layer: batch norm behind it would
    leave nothing sparse.

    Args:
        encoder: a ``CSC2d``, or a chain of them as :func:`~csc_nets.layers.encode_tiles` takes it, such as
            ``csc_nets.load(run).stages`` of a ``csc_small``; on the device to use.
        root: folder with images.
        out: folder for the codes; ``00000.pt``, ``00001.pt``, ... one for each batch, for
            :func:`read_codes`.
        lam: as for :func:`~csc_nets.layers.encode_tiles`.
        budget: bytes for the work on a tile.
        num_workers: worker processes.
        options: ``image_size``, ``in_chans``, ``mean``, ``std``, ``batch_size`` of :func:`folder_images`.

    Yields:
        Every file when it is written.

    Raises:
        FileNotFoundError, ValueError: as for :func:`folder_images` and :func:`~csc_nets.layers.encode_tiles`.
    """
    modules = chain(encoder)
    last = max((i for i, module in enumerate(modules) if isinstance(module, ConvCSC)), default=-1)
    coder = nn.Sequential(*modules[: last + 1])
    weight = next(coder.parameters())
    files, batches = folder_images(root, num_workers=num_workers, device=weight.device, **options)  # type: ignore[arg-type]
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    done = 0
    for number, (images, labels) in enumerate(batches):
        code = SparseCode.of(encode_tiles(coder, images.to(weight.dtype), lam=lam, budget=budget))
        names = [str(path.relative_to(root)) for path in files.paths[done : done + len(labels)]]
        done += len(labels)
        file = folder / f"{number:05d}.pt"
        torch.save({"files": names, "code": code.state_dict()}, file)
        yield file


def read_codes(file: str | Path) -> EncodedImages:
    """The codes of one file of :func:`encode_folder`; no code in it is executed.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, or no file of codes.
    """
    try:
        content = read_torch_file(file)
        return EncodedImages(content["files"], SparseCode.from_state_dict(content["code"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"read_codes: {file} is damaged, or no file of codes: {error}") from error


def _as_it_is(picture: Image.Image) -> Image.Image:
    return picture
