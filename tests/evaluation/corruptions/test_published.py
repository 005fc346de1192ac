"""Tiny folders in the formats of CIFAR-10-C and ImageNet-C, and folders that are not what they should be."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from csc_nets.evaluation import PublishedCorruptions

COUNT = 7


@pytest.fixture
def cifar(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5 * COUNT, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "fog.npy", images)
    np.save(tmp_path / "gaussian_noise.npy", 255 - images)
    np.save(tmp_path / "labels.npy", np.tile(np.arange(COUNT, dtype=np.uint8), 5))
    np.save(tmp_path / "other.npy", images)
    return tmp_path, images


@pytest.fixture
def imagenet(tmp_path):
    for severity in range(1, 6):
        for label, name in enumerate(("n01", "n02", "n03")):
            folder = tmp_path / "snow" / str(severity) / name
            folder.mkdir(parents=True)
            for index in range(2):
                shade = 40 * label + 10 * index + severity
                Image.new("RGB", (16, 16), (shade, shade, shade)).save(folder / f"{index}.JPEG", quality=100)
    return tmp_path


def test_arrays_are_read_severity_by_severity(cifar):
    root, images = cifar
    published = PublishedCorruptions(root, batch_size=4)
    assert published.names == ["gaussian_noise", "fog"]
    for severity in range(1, 6):
        parts = list(published.batches("fog", severity))
        assert [len(part) for part, _ in parts] == [4, 3]
        found, labels = (torch.cat(column) for column in zip(*parts, strict=True))
        wanted = images[(severity - 1) * COUNT : severity * COUNT].transpose(0, 3, 1, 2) / 255.0
        np.testing.assert_allclose(found, wanted, atol=1e-6)
        assert found.dtype == torch.float32 and labels.dtype == torch.int64
        assert labels.tolist() == list(range(COUNT))


@pytest.mark.parametrize("severity", [1, 5])
def test_folders_are_read_class_by_class(imagenet, severity):
    published = PublishedCorruptions(imagenet, batch_size=4)
    assert (published.names, published.class_names) == (["snow"], ["n01", "n02", "n03"])
    parts = list(published.batches("snow", severity))
    assert [len(part) for part, _ in parts] == [4, 2]
    images, labels = (torch.cat(column) for column in zip(*parts, strict=True))
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert images.shape == (6, 3, 16, 16)
    shades = [40 * label + 10 * index + severity for label in range(3) for index in range(2)]
    torch.testing.assert_close(images.mean((1, 2, 3)) * 255, torch.tensor(shades) * 1.0, atol=1.0, rtol=0)


def test_classes_may_have_an_order_of_their_own(imagenet):
    published = PublishedCorruptions(imagenet, class_names=["n03", "n01", "n02"])
    ((images, labels),) = published.batches("snow", 2)
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert images[0].mean() > images[2].mean()


def test_what_is_asked_for_wrongly_is_refused(cifar, tmp_path):
    published = PublishedCorruptions(cifar[0])
    with pytest.raises(ValueError, match="unknown corruption 'fogg'; did you mean fog"):
        next(published.batches("fogg", 1))
    with pytest.raises(ValueError, match="severity must be a whole number from 1 to 5, got 6"):
        next(published.batches("fog", 6))
    with pytest.raises(ValueError, match="batch_size must be an int >= 1, got 0"):
        PublishedCorruptions(cifar[0], batch_size=0)
    with pytest.raises(FileNotFoundError, match="is missing"):
        PublishedCorruptions(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no corruption in"):
        PublishedCorruptions(tmp_path / "empty")


def test_an_image_of_another_size_is_named(imagenet):
    Image.new("RGB", (8, 16)).save(imagenet / "snow" / "1" / "n02" / "9.JPEG")
    with pytest.raises(ValueError, match=r"images must have one size, got \(3, 16, 8\) in .*9.JPEG"):
        list(PublishedCorruptions(imagenet).batches("snow", 1))


def test_a_class_that_only_some_folders_have_is_refused(imagenet):
    (imagenet / "snow" / "2" / "n04").mkdir()
    with pytest.raises(ValueError, match="has class 'n04'"):
        list(PublishedCorruptions(imagenet).batches("snow", 2))


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("fog", np.zeros((35, 8, 8, 3), np.float32), r"must be uint8 \(5 N, H, W, 3\).*got float32"),
        ("fog", np.zeros((36, 8, 8, 3), np.uint8), r"got uint8 \(36, 8, 8, 3\)"),
        ("fog", np.zeros((35, 8, 8), np.uint8), r"got uint8 \(35, 8, 8\)"),
        ("labels", np.zeros(34, np.uint8), r"must be integers \(35,\), as the images of fog, got uint8 \(34,\)"),
        ("labels", np.zeros(35, np.float32), r"must be integers \(35,\).*got float32"),
    ],
)
def test_arrays_of_another_type_or_size_are_refused(cifar, name, array, message):
    np.save(cifar[0] / f"{name}.npy", array)
    with pytest.raises(ValueError, match=message):
        next(PublishedCorruptions(cifar[0]).batches("fog", 1))


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a file was called",))


@pytest.mark.parametrize("name", ["fog", "labels"])
def test_nothing_in_a_file_is_called(cifar, name):
    np.save(cifar[0] / f"{name}.npy", np.array([Bomb()] * 35, dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=f"cannot read .*{name}.npy"):
        next(PublishedCorruptions(cifar[0]).batches("fog", 1))
    (cifar[0] / f"{name}.npy").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match=f"cannot read .*{name}.npy"):
        next(PublishedCorruptions(cifar[0]).batches("fog", 1))


@pytest.mark.parametrize("name", ["fog", "labels"])
def test_a_file_that_claims_more_than_it_has_is_refused(cifar, name):
    path = cifar[0] / f"{name}.npy"
    head = path.read_bytes()[:128]
    assert b"(35," in head
    for content in (head.replace(b"(35,", b"(35000000000000,").replace(b"            ", b"", 1), head, head[:20], b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"cannot read .*{name}.npy"):
            next(PublishedCorruptions(cifar[0]).batches("fog", 1))
