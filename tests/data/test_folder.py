import time

import numpy as np
import pytest
import torch
from PIL import Image

from csc_nets.data import create_datamodule, folder, imagenet

MEAN, STD = folder.IMAGENET_MEAN, folder.IMAGENET_STD


@pytest.fixture
def tree(tmp_path):
    """Two classes, 6 training and 2 validation images each, every image of one colour: (class, split, number)."""
    for split, count in (("train", 6), ("val", 2)):
        for label, name in enumerate(("cat", "dog")):
            for number in range(count):
                path = tmp_path / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (12, 10), (100 * label, 200 * (split == "val"), 10 * number)).save(path)
    return tmp_path


def build(root, **options):
    settings = {"root": root, "image_size": 8, "batch_size": 4, "num_workers": 0}
    return create_datamodule("image_folder", **settings | options)


def everything(batches):
    pairs = list(batches)
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


def test_pixels_and_labels_come_through(tree):
    data = build(tree)
    images, labels = everything(data.val_dataloader())
    pixels = (data.denormalize(images) * 255).round()
    assert labels.tolist() == [0, 0, 1, 1] and pixels.shape == (4, 3, 8, 8)
    colours = [[0, 200, 0], [0, 200, 10], [100, 200, 0], [100, 200, 10]]
    assert pixels.flatten(2).unique(dim=2).squeeze(2).tolist() == colours
    assert (data.class_names, data.num_classes, data.in_chans, data.image_size) == (["cat", "dog"], 2, 3, 8)
    assert data.mean == MEAN and data.std == STD


@pytest.mark.parametrize("num_workers", [0, 2])
def test_streaming_serves_what_memory_serves(tree, num_workers):
    options = {"crop_padding": 2, "cutout": 3, "seed": 4}
    memory = build(tree, in_memory=True, **options).train_dataloader()
    stream = build(tree, in_memory=False, num_workers=num_workers, **options).train_dataloader()
    for _ in range(2):
        (x, y), (u, v) = everything(memory), everything(stream)
        assert torch.equal(x, u) and torch.equal(y, v)
    iterator = iter(stream)
    next(iterator)
    resumed = build(tree, in_memory=False, num_workers=num_workers, **options).train_dataloader()
    resumed.load_state_dict(stream.state_dict())
    resumed.set_epoch(2)
    memory.set_epoch(2)
    assert torch.equal(everything(resumed)[0], everything(memory)[0][4:])


def test_random_resized_crops_do_not_depend_on_the_workers(tree):
    gradient = np.arange(40, dtype=np.uint8)[:, None, None] + np.arange(40, dtype=np.uint8)[:, None] * np.ones(
        3, np.uint8
    )
    for path in (tree / "train").rglob("*.png"):
        Image.fromarray(gradient).save(path)
    loaders = [build(tree, crop_scale=[0.1, 0.5], num_workers=workers).train_dataloader() for workers in (0, 2)]
    first, second = (everything(loader)[0] for loader in loaders)
    assert torch.equal(first, second)
    assert not torch.equal(first, everything(loaders[0])[0])
    assert len({tuple(image.flatten().tolist()) for image in first}) == len(first)


def test_size_decides_what_is_kept_in_memory(tree, monkeypatch):
    assert build(tree).decoded_bytes == 16 * 3 * 8 * 8
    assert isinstance(build(tree).split("train"), folder.TensorSplit)
    monkeypatch.setattr(folder, "IN_MEMORY_BYTES", 16 * 3 * 8 * 8 - 1)
    assert isinstance(build(tree).split("train"), folder.FileSplit)
    assert isinstance(build(tree, in_memory=True).split("train"), folder.TensorSplit)


def test_the_validation_images_are_tested_on_where_there_is_no_test_folder(tree):
    data = build(tree)
    assert data.split("test") is data.split("val")
    path = tree / "test" / "dog" / "0.png"
    path.parent.mkdir(parents=True)
    Image.new("RGB", (9, 9), (1, 2, 3)).save(path)
    assert build(tree).split("test").labels.tolist() == [1]


def test_a_validation_share_is_held_out_where_there_is_no_validation_folder(tree):
    (tree / "val").rename(tree / "unused")
    data = build(tree, val_fraction=0.5)
    train, val = set(data.files["train"].paths), set(data.files["val"].paths)
    assert train | val == set((tree / "train").rglob("*.png")) and not train & val
    assert data.split("val").labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_grey_images_take_the_average_statistics(tree):
    data = build(tree, in_chans=1)
    images, _ = next(iter(data.train_dataloader()))
    assert images.shape == (4, 1, 8, 8) and data.mean == pytest.approx((0.449,)) and len(data.std) == 1


@pytest.mark.parametrize(("in_memory", "num_workers"), [(True, 0), (False, 0), (False, 2)])
def test_a_truncated_image_is_named_in_one_line(tree, in_memory, num_workers):
    path = tree / "train" / "dog" / "3.png"
    path.write_bytes(path.read_bytes()[:50])
    data = build(tree, in_memory=in_memory, num_workers=num_workers)
    with pytest.raises(ValueError, match=f"^image_folder: cannot read the image {path} ") as caught:
        everything(data.train_dataloader())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_chans": 2, "mean": [0, 0], "std": [1, 1]}, "in_chans must be 1 or 3, got 2"),
        ({"crop_share": 0.0}, "crop_share must be above 0 and at most 1, got 0.0"),
        ({"crop_scale": [0.5, 0.1]}, "crop_scale must be two shares"),
        ({"crop_scale": [0.5, 1], "in_memory": True}, "in_memory must be False or None with crop_scale, got True"),
        ({"image_size": 0}, "image_size must be a whole number >= 1, got 0"),
    ],
)
def test_bad_options_are_refused(tree, options, message):
    with pytest.raises(ValueError, match="^image_folder: " + message):
        build(tree, **options)


def test_missing_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"image_folder: folder {tmp_path}/train is missing"):
        build(tmp_path)
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=f"image_folder: no image under {tmp_path}/train"):
        build(tmp_path).setup("fit")


def test_imagenet_is_a_folder_with_its_own_defaults(tree):
    data = imagenet(root=tree)
    assert (data.image_size, data.crop_scale, data.crop_share, data.name) == (224, (0.08, 1.0), 0.875, "imagenet")
    assert isinstance(data.split("train"), folder.FileSplit)
    (tree / "val").rename(tree / "unused")
    with pytest.raises(FileNotFoundError, match=f"imagenet: folder {tree}/val is missing, expected its 1,000 class"):
        imagenet(root=tree)


@pytest.mark.parametrize("in_memory", [True, False])
def test_twelve_bit_images_need_a_word(tree, in_memory):
    for path in tree.rglob("*.png"):
        Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(path)
    with pytest.raises(ValueError, match=r"^image_folder: bits must be given: .* set data\.bits=12"):
        everything(build(tree, in_chans=1, in_memory=in_memory).train_dataloader())
    data = build(tree, in_chans=1, in_memory=in_memory, bits=12, drop_last=False)
    images, _ = everything(data.train_dataloader())
    assert (data.denormalize(images) * 255).round().unique().tolist() == [250]  # 4000 / 16
    with pytest.raises(ValueError, match="bits must be a whole number from 8 to 16, got 20"):
        build(tree, bits=20)


class Stopped(torch.utils.data.Dataset):
    def __getitem__(self, item):
        time.sleep(60)


def test_a_worker_that_stopped_is_an_error(tree):
    data = build(tree, in_memory=False, num_workers=1, worker_timeout=0.5)
    loader = data.train_dataloader()
    loader.dataset = Stopped()
    with pytest.raises(TimeoutError, match=r"no batch has come from the 1 worker processes for 0\.5 seconds"):
        next(iter(loader))
    assert build(tree).worker_timeout == 300
    with pytest.raises(ValueError, match="worker_timeout must be a finite number of seconds >= 0, got -1"):
        build(tree, worker_timeout=-1)


def test_whole_numbers_of_numpy_are_whole_numbers(tree):
    data = build(tree, batch_size=np.int64(4), image_size=np.int32(8))
    assert next(iter(data.train_dataloader()))[0].shape == (4, 3, 8, 8)
