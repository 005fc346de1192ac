import hashlib
import pickle
import struct

import numpy as np
import pytest
import torch
from torchvision import datasets

from csc_nets.data import create_datamodule
from csc_nets.data.facts import FACTS
from csc_nets.data.idx_files import MD5
from csc_nets.data.vision import SOURCES


def write_mnist(folder, counts=(40, 20), monkeypatch=None, name="mnist"):
    """The four idx files in the official layout, whose checksums pass; returns images and labels of both parts."""
    folder.mkdir(parents=True)
    generator, parts = np.random.default_rng(0), []
    for prefix, count in zip(("train", "t10k"), counts, strict=True):
        images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        header = struct.pack(">IIII", 0x803, count, 28, 28)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + labels.tobytes())
        parts.append((torch.from_numpy(images), torch.from_numpy(labels).long()))
    if monkeypatch is not None:
        sums = {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in folder.iterdir()}
        monkeypatch.setitem(MD5, name, sums)
    return parts


def write_cifar(root, source, monkeypatch):
    """Pickles in the official layout; torchvision is told their checksums."""
    folder, generator = root / source.base_folder, np.random.default_rng(0)
    folder.mkdir(parents=True)
    key = "labels" if source is datasets.CIFAR10 else "fine_labels"
    classes, stored = 10 if source is datasets.CIFAR10 else 100, {}

    def write(name, content):
        blob = pickle.dumps(content)
        (folder / name).write_bytes(blob)
        return hashlib.md5(blob).hexdigest()

    for listing in ("train_list", "test_list"):
        sums = []
        for name, _ in getattr(source, listing):
            stored[name] = generator.integers(0, 256, (2 * classes, 3 * 32 * 32), dtype=np.uint8)
            sums.append([name, write(name, {"data": stored[name], key: [i % classes for i in range(2 * classes)]})])
        monkeypatch.setattr(source, listing, sums)
    names = list(FACTS["cifar10" if classes == 10 else "cifar100"].class_names)
    checksum = write(source.meta["filename"], {source.meta["key"]: names})
    monkeypatch.setattr(source, "meta", source.meta | {"md5": checksum})
    return stored


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_mnist_files(tmp_path, monkeypatch, name, folder):
    raw = tmp_path / folder / "raw"
    (images, labels), (test_images, test_labels) = write_mnist(raw, monkeypatch=monkeypatch, name=name)
    data = create_datamodule(name, root=tmp_path, val_fraction=0.25, batch_size=10)
    data.prepare_data()
    data.setup()
    train, val, test = (data.split(part) for part in ("train", "val", "test"))
    assert torch.bincount(val.labels).tolist() == [1] * 10 and len(train.labels) == 30
    together = torch.cat([train.images, val.images])[:, 0].flatten(1).tolist()
    assert sorted(together) == sorted(images.flatten(1).tolist())
    assert torch.equal(test.images[:, 0], test_images) and torch.equal(test.labels, test_labels)
    x, y = next(iter(data.test_dataloader()))
    mean, std = FACTS[name].mean[0], FACTS[name].std[0]
    torch.testing.assert_close(x[:, 0], (test_images / 255 - mean) / std)
    assert torch.equal(y, test_labels) and data.num_classes == 10 and len(labels) == 40


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_files(tmp_path, monkeypatch, name):
    source = getattr(datasets, SOURCES[name][0])
    stored = write_cifar(tmp_path, source, monkeypatch)
    data = create_datamodule(name, root=tmp_path, val_fraction=0.5, batch_size=10)
    data.setup()
    test = data.split("test")
    (last,) = [stored[entry[0]] for entry in source.test_list]
    assert torch.equal(test.images.flatten(1), torch.from_numpy(last))
    assert test.labels.tolist() == list(range(data.num_classes)) * 2
    assert len(data.split("train").labels) == len(data.split("val").labels) == len(last) * len(source.train_list) // 2
    assert data.augmentation["crop_padding"] == 4 and data.augmentation["flip"] is True


def fake_source(attributes):
    class Source:
        def __init__(self, root, download, split):
            self.__dict__.update(attributes)

    return Source


@pytest.mark.parametrize(("name", "size"), [("svhn", 32), ("stl10", 96)])
def test_channels_first_sources(monkeypatch, name, size):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3, size, size), dtype=np.uint8)
    monkeypatch.setattr(datasets, SOURCES[name][0], fake_source({"data": pixels, "labels": np.arange(20) % 10}))
    test = create_datamodule(name).split("test")
    assert torch.equal(test.images, torch.from_numpy(pixels)) and test.labels.tolist() == [*range(10), *range(10)]


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_missing_files_are_asked_for_by_folder_and_name(tmp_path, name):
    with pytest.raises(FileNotFoundError) as caught:
        create_datamodule(name, root=tmp_path).setup("fit")
    message = str(caught.value)
    assert message.startswith(f"{name}: files are missing or damaged, expected under {tmp_path}: {FACTS[name].files}; ")
    assert "set download=True" in message and "\n" not in message


def test_files_named_in_the_message_are_those_torchvision_reads():
    for name in ("cifar100", "stl10", "svhn"):
        source = getattr(datasets, SOURCES[name][0])
        if name == "svhn":
            names = [entry[1] for part, entry in source.split_list.items() if part != "extra"]
        else:
            names = [source.base_folder, *(entry[0] for entry in source.train_list + source.test_list)]
        assert all(file in FACTS[name].files for file in names)


def test_a_damaged_file_is_reported_in_one_line(tmp_path):
    write_mnist(tmp_path / "MNIST" / "raw")
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FileNotFoundError, match=r"^mnist: files are missing or damaged") as caught:
        create_datamodule("mnist", root=tmp_path).setup("fit")
    assert "\n" not in str(caught.value)


def test_download_without_a_network_says_so(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", refuse)
    with pytest.raises(FileNotFoundError, match=r"mnist: files are missing .* check the network") as caught:
        create_datamodule("mnist", root=tmp_path, download=True).prepare_data()
    assert "\n" not in str(caught.value)


def test_bad_share_is_refused():
    with pytest.raises(ValueError, match=r"mnist: val_fraction must be between 0 and 1, got 1\.5"):
        create_datamodule("mnist", val_fraction=1.5)


@pytest.mark.parametrize("damage", ["swapped", "shifted", "zeros"])
def test_files_that_are_not_the_published_ones_are_refused(tmp_path, monkeypatch, damage):
    raw = tmp_path / "MNIST" / "raw"
    write_mnist(raw, counts=(40, 40), monkeypatch=monkeypatch)
    file, test = raw / "train-images-idx3-ubyte", raw / "t10k-images-idx3-ubyte"
    content = file.read_bytes()
    if damage == "swapped":
        file.write_bytes(test.read_bytes())
    elif damage == "shifted":
        file.write_bytes(content[:16] + content[17:] + content[16:17])
    else:
        file.write_bytes(content[:2000] + bytes(1000) + content[3000:])
    words = "it is t10k-images-idx3-ubyte" if damage == "swapped" else f"{len(content)} bytes, md5 "
    with pytest.raises(ValueError, match=rf"mnist: {file} is not the published file \({words}.*verify=false") as caught:
        create_datamodule("mnist", root=tmp_path).setup("fit")
    assert "\n" not in str(caught.value)
    create_datamodule("mnist", root=tmp_path).setup("test")
    create_datamodule("mnist", root=tmp_path, verify=False, val_fraction=0.25).setup("fit")


def test_grey_images_for_networks_that_take_colours(tmp_path, monkeypatch):
    write_mnist(tmp_path / "MNIST" / "raw", monkeypatch=monkeypatch)
    one, three = (create_datamodule("mnist", root=tmp_path, in_chans=n).test_images(3) for n in (1, 3))
    assert torch.equal(three, one.expand(-1, 3, -1, -1))
