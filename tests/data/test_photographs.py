"""Crops of whole photographs, from files and from those that come with scikit-learn."""

import pytest
import torch
from torchvision.utils import save_image

from csc_nets.data import create_datamodule


@pytest.fixture
def folder(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for part, sizes in {"train": [(40, 50), (33, 41), (64, 32), (50, 50)], "test": [(30, 44), (40, 36)]}.items():
        (tmp_path / part / "sub").mkdir(parents=True)
        for i, size in enumerate(sizes):
            save_image(torch.rand(3, *size, generator=generator), tmp_path / part / "sub" / f"{i}.png")
    return tmp_path


def test_crops_and_whole_images_of_a_folder(folder):
    data = create_datamodule("photographs", root=folder, image_size=24, crops=5, batch_size=4, val_fraction=0.25)
    data.setup()
    batches = list(data.train_dataloader())
    assert [tuple(images.shape) for images, _ in batches] == [(4, 1, 24, 24)] * 3  # three photographs, five crops
    assert min(i.min() for i, _ in batches) >= 0 and max(i.max() for i, _ in batches) <= 1
    assert len(list(data.val_dataloader())) == 1
    assert [tuple(images.shape) for images, _ in data.test_dataloader()] == [(1, 1, 30, 44), (1, 1, 40, 36)]
    assert data.test_images(8).shape == (2, 1, 30, 36)


def test_every_crop_is_a_part_of_its_photograph_in_one_of_eight_symmetries(folder):
    data = create_datamodule("photographs", root=folder, image_size=8, crops=3, in_chans=3, val_fraction=0.25)
    crops = data.split("train").training
    seen = set()
    for key in range(60):
        crop, _ = crops[0, key]
        windows = crops.images[0].unfold(1, 8, 1).unfold(2, 8, 1)
        symmetries = [torch.rot90(c, k, (1, 2)) for c in (crop, crop.flip(2)) for k in range(4)]
        found = [i for i, s in enumerate(symmetries) if (windows == s[:, None, None]).all((0, 3, 4)).any()]
        assert len(found) == 1
        seen.update(found)
    assert seen == set(range(8))


def test_the_same_seed_and_epoch_give_the_same_batches(folder):
    def first(epoch, seed=0):
        options = {"image_size": 16, "crops": 2, "batch_size": 4, "val_fraction": 0.25, "seed": seed}
        data = create_datamodule("photographs", root=folder, **options)
        loader = data.train_dataloader()
        loader.set_epoch(epoch)
        return next(iter(loader))[0]

    assert torch.equal(first(3), first(3))
    assert not torch.equal(first(3), first(4)) and not torch.equal(first(3), first(3, seed=1))


def test_the_embedded_photographs_share_no_pixel():
    data = create_datamodule("photographs", image_size=48, crops=4, batch_size=2)
    data.setup()
    sizes = {part: [tuple(i.shape) for i in data.split(part).evaluation.images] for part in ("val", "test")}
    assert sizes == {"val": [(1, 427, 96)] * 2, "test": [(1, 427, 96)] * 2}
    assert data.split("train").training.images[0].shape == (1, 427, 448)
    images, _ = next(iter(data.test_dataloader()))
    assert images.dtype == torch.float32 and images.min() >= 0 and images.max() <= 1


def test_a_folder_to_test_on_needs_no_training_images(folder):
    data = create_datamodule("photographs", root=folder / "test", test=".")
    data.setup("test")
    assert len(list(data.test_dataloader())) == 2


def test_without_a_folder_for_it_the_test_is_on_validation_images(folder):
    data = create_datamodule("photographs", root=folder, test="none", val="test", image_size=16)
    data.setup()
    val, test = (data.split(part).evaluation.images for part in ("val", "test"))
    assert len(val) == len(test) == 2 and len(data.split("train").training.images) == 4
    assert not data.has_test and data.test_names() == ["sub/0", "sub/1"]
    held_out = create_datamodule("photographs", root=folder, test="none", val_fraction=0.25)
    assert not held_out.has_test and len(held_out.test_names()) == 1


def test_where_there_are_test_images(folder, tmp_path):
    assert create_datamodule("photographs").has_test and create_datamodule("photographs", root=folder).has_test
    assert create_datamodule("photographs", root=folder / "test" / "sub").has_test  # a folder of test images alone
    (tmp_path / "none" / "test").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"no image under .*/none/test"):
        create_datamodule("photographs", root=tmp_path / "none").test_images(1)


def test_what_cannot_be_served_is_refused_in_one_line(folder, tmp_path):
    with pytest.raises(ValueError, match=r"at most 32, the side of /.*/train/sub/2\.png, got 33"):
        create_datamodule("photographs", root=folder, image_size=33, val_fraction=0.5).train_dataloader()
    with pytest.raises(ValueError, match="eval_batch_size must be 1"):
        create_datamodule("photographs", eval_batch_size=4)
    with pytest.raises(FileNotFoundError, match="expected photographs in it"):
        create_datamodule("photographs", root=folder, train="nothing").train_dataloader()
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no image under"):
        create_datamodule("photographs", root=tmp_path, train="empty").train_dataloader()


def test_an_error_on_an_image_names_its_file(folder):
    data = create_datamodule("photographs", root=folder)
    data.setup("test")
    file = folder / "test" / "sub" / "1.png"
    with pytest.raises(ValueError, match=f"^photographs: {file}: too dark"), data.naming("test", 1):
        raise RuntimeError("too dark")
    embedded = create_datamodule("photographs")
    with pytest.raises(RuntimeError, match=r"^too dark"), embedded.naming("test", 1):
        raise RuntimeError("too dark")
