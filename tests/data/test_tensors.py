import pytest
import torch

from csc_nets.data import TensorDataModule

X, Y = torch.rand(20, 1, 6, 6), torch.arange(20) % 4


def with_bad(value):
    images = X.clone()
    images[7, 0, 2, 3] = value
    return images


def test_float_images_are_taken_as_they_stand():
    data = TensorDataModule(X, Y, val=(X[:3], Y[:3]), batch_size=20, drop_last=False)
    images, labels = next(iter(data.val_dataloader()))
    assert torch.equal(images, X[:3]) and torch.equal(labels, Y[:3])
    assert (data.num_classes, data.in_chans, data.image_size) == (4, 1, 6)
    assert data.class_names == ["0", "1", "2", "3"] and data.mean == (0.0,) and data.std == (1.0,)
    assert len(data.split("train").labels) == 20


def test_without_validation_images_a_stratified_share_is_held_out():
    data = TensorDataModule(X, Y, val_fraction=0.4)
    train, val = data.split("train"), data.split("val")
    assert torch.bincount(val.labels).tolist() == [2, 2, 2, 2] and len(train.labels) == 12
    together = torch.cat([train.images, val.images]).flatten(1)
    assert {tuple(row.tolist()) for row in together} == {tuple(row.tolist()) for row in X.flatten(1)}


def test_there_is_no_test_set_unless_given():
    with pytest.raises(ValueError, match=r"TensorDataModule: test must be given as \(images, labels\)"):
        TensorDataModule(X, Y, val_fraction=0.4).setup("test")


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (with_bad(float("nan")), Y, {}, "train: expected finite images, got NaN or infinity in 1, first index 7"),
        (with_bad(float("inf")), Y, {}, "train: expected finite images, got NaN or infinity in 1, first index 7"),
        (X, Y - 1, {}, "train: expected labels from 0 to 2, got labels from -1 to 2"),
        (X, Y, {"num_classes": 3}, "train: expected labels from 0 to 2, got labels from 0 to 3"),
        (X, Y[:-1], {}, r"train: expected 20 labels of shape \(20,\), got \(19,\)"),
        (X, Y.float(), {}, "train: expected whole-number labels, got torch.float32"),
        (X.int(), Y, {}, "train: expected uint8 or floating images, got torch.int32"),
        (X[:0], Y[:0], {"num_classes": 4}, "train: expected at least one image, got none"),
        (X[0], Y, {}, r"x must be square images \(N, C, H, H\), got \(1, 6, 6\)"),
        (X[..., :5], Y, {}, r"x must be square images \(N, C, H, H\), got \(20, 1, 6, 5\)"),
        (X, Y, {"val": (X[..., :5], Y)}, r"val: expected images of shape \(N, 1, 6, 6\), got \(20, 1, 6, 5\)"),
        (X, Y, {"test": (X, Y + 1)}, "test: expected labels from 0 to 3, got labels from 1 to 4"),
        (X, Y, {"num_classes": 5, "class_names": list("abcd")}, "num_classes must be the 4 of class_names, got 5"),
        (X, Y, {"val": (X, Y), "val_fraction": 2}, "val_fraction must be between 0 and 1, got 2"),
        (X, Y, {"val_fraction": 0.01}, "val_fraction must leave training and validation images, got 0.01"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(x, y, options, message):
    with pytest.raises(ValueError, match="^TensorDataModule: " + message) as caught:
        TensorDataModule(x, y, **options)
    assert "\n" not in str(caught.value)
