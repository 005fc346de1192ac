"""Whether the files of MNIST and Fashion-MNIST are the published ones."""

import hashlib
from pathlib import Path

__all__ = ["MD5", "check_idx_files"]

MD5 = {
    "mnist": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
}
"""Of the unpacked files. torchvision knows those of the packed ones, and looks at them after a download only."""

_SIZES = {"images": (16, 784), "labels": (8, 1)}  # bytes of the head, and of each item
_ITEMS = {"train": 60_000, "t10k": 10_000}


def check_idx_files(name: str, folder: Path, training: bool) -> None:
    """Refuses files of another size or content than the published ones.

    They may hold the images of the test under the names of training, or be shifted by a byte, and still be read.

    Args:
        name: ``"mnist"`` or ``"fashion_mnist"``.
        folder: with the unpacked files.
        training: which two of the four.

    Raises:
        ValueError: In one line that names the file, what it is and what it should be.
    """
    part = "train" if training else "t10k"
    for file, expected in MD5[name].items():
        path = folder / file
        if not file.startswith(part) or not path.is_file():
            continue
        head, item = _SIZES["images" if "images" in file else "labels"]
        size, published = path.stat().st_size, head + item * _ITEMS[part]
        found = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        if found == expected:
            continue
        other = [known for known, md5 in MD5[name].items() if md5 == found]
        what = f"it is {other[0]}" if other else f"{size} bytes, md5 {found}"
        raise ValueError(
            f"{name}: {path.absolute()} is not the published file ({what}; that has {published} bytes, md5 "
            f"{expected}): fetch it again, or set +data.verify=false to use it as it is"
        )
