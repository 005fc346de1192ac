import inspect
import subprocess
import sys

import pytest

from csc_nets.data import ImageDataModule, create_datamodule, list_datasets


def test_names():
    small = {"digits", "sample_images", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "stl10", "photographs"}
    assert list_datasets() == sorted(small | {"imagenet", "image_folder"})


def test_unknown_name_lists_the_known_ones_and_the_close_one():
    with pytest.raises(ValueError, match=r"unknown data set 'cifar-10'; did you mean cifar10") as caught:
        create_datamodule("cifar-10")
    assert all(name in str(caught.value) for name in list_datasets()) and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"unknown data set 'xyz'; known: "):
        create_datamodule("xyz")


@pytest.mark.parametrize("name", sorted(set(list_datasets()) - {"imagenet", "image_folder", "photographs"}))
def test_facts_are_there_before_any_file_is_read(name, tmp_path):
    options = {} if name in ("digits", "sample_images") else {"root": tmp_path}
    data = create_datamodule(name, **options)
    assert isinstance(data, ImageDataModule)
    assert len(data.class_names) == len(set(data.class_names)) == data.num_classes >= 2
    assert len(data.mean) == len(data.std) == data.in_chans
    assert all(0 < m < 1 for m in data.mean) and all(0 < s < 1 for s in data.std)


def test_options_reach_the_module():
    own = set(inspect.signature(ImageDataModule.__init__).parameters) - {"self", "name", "class_names", "in_chans"}
    data = create_datamodule("digits", batch_size=7, seed=3, channels_last=True, mean=[0.5], cutout=2)
    assert (data.batch_size, data.seed, data.channels_last, data.mean) == (7, 3, True, (0.5,))
    assert data.augmentation["cutout"] == 2 and {"batch_size", "device", "drop_last"} < own


def test_importing_the_package_leaves_the_data_room_out():
    code = (
        "import csc_nets, sys; print([m for m in ('lightning', 'torchvision', 'sklearn', 'PIL') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
