import pytest
import torch
from sklearn.datasets import load_digits, load_sample_images

from csc_nets.data import digits, sample_images
from csc_nets.data.embedded import with_statistics
from csc_nets.data.facts import FACTS


def test_digits_are_all_there_once_and_stratified():
    data, source = digits(), load_digits()
    parts = [data.split(name) for name in ("train", "val", "test")]
    assert [len(part.labels) for part in parts] == [1079, 359, 359]
    stored = torch.cat([part.images for part in parts]).flatten(1).float() * 16 / 255
    labels = torch.cat([part.labels for part in parts])
    rows = sorted((*row.round().int().tolist(), label) for row, label in zip(stored, labels.tolist(), strict=True))
    expected = sorted(
        (*map(int, row), int(label)) for row, label in zip(source.data.tolist(), source.target.tolist(), strict=True)
    )
    assert rows == expected
    counts = torch.bincount(labels)
    for part in parts[1:]:
        assert (torch.bincount(part.labels) - 0.2 * counts).abs().max() <= 0.5


def test_digits_statistics_and_split_seed():
    data = digits(batch_size=1079)
    images, _ = next(iter(data.train_dataloader()))
    assert abs(images.mean()) < 0.02 and abs(images.std() - 1) < 0.02
    assert torch.equal(digits(seed=5).split("test").images, data.split("test").images)
    assert not torch.equal(digits(split_seed=5).split("test").images, data.split("test").images)


def test_sample_patches_of_different_splits_share_no_pixel():
    data = sample_images(image_size=24)
    photographs = [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in load_sample_images().images]
    bands = {"train": (0, 448, 12), "val": (448, 544, 24), "test": (544, 640, 24)}
    for name, (first, last, stride) in bands.items():
        expected = [
            (photograph[:, row : row + 24, column : column + 24], label)
            for label, photograph in enumerate(photographs)
            for row in range(0, 427 - 23, stride)
            for column in range(first, last - 23, stride)
        ]
        stored = data.split(name)
        assert torch.equal(stored.images, torch.stack([patch for patch, _ in expected]))
        assert stored.labels.tolist() == [label for _, label in expected]


def test_sample_patches_are_normalised():
    data = sample_images(batch_size=1350)
    images, _ = next(iter(data.train_dataloader()))
    assert images.mean((0, 2, 3)).abs().max() < 0.05 and (images.std((0, 2, 3)) - 1).abs().max() < 0.05


@pytest.mark.parametrize("options", [{"image_size": 97}, {"image_size": 0}, {"stride": 0}])
def test_impossible_patches_are_refused(options):
    (argument, value), *_ = options.items()
    with pytest.raises(ValueError, match=f"sample_images: {argument} must be .* got {value}"):
        sample_images(**options)


@pytest.mark.parametrize(
    ("build", "options"),
    [
        (digits, {}),
        (digits, {"split_seed": 3}),
        (sample_images, {}),
        (sample_images, {"image_size": 24}),
        (sample_images, {"image_size": 16, "stride": 5}),
    ],
)
def test_statistics_are_of_the_training_images_alone(build, options):
    data = build(**options)
    pixels = data.split("train").images.double() / 255
    whole = torch.cat([data.split(name).images for name in ("train", "val", "test")]).double() / 255
    torch.testing.assert_close(torch.tensor(data.mean).double(), pixels.mean((0, 2, 3)), rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.tensor(data.std).double(), pixels.std((0, 2, 3), correction=0), rtol=0, atol=1e-6)
    assert (torch.tensor(data.mean) - whole.mean((0, 2, 3))).abs().max() > 1e-4
    if not options:
        facts = FACTS[data.name]
        assert facts.mean == tuple(round(m, 4) for m in data.mean) and facts.std == tuple(round(s, 4) for s in data.std)


def test_runs_of_before_keep_the_statistics_of_all_images():
    data = digits(statistics="all")
    assert (data.mean, data.std) == ((0.3053,), (0.376,))
    assert with_statistics({"name": "digits", "batch_size": 8}, "all")["statistics"] == "all"
    assert with_statistics({"name": "digits", "statistics": "train"}, "all")["statistics"] == "train"
    assert with_statistics({"name": "mnist"}, "all") == {"name": "mnist"}
    for build in (digits, sample_images):
        with pytest.raises(ValueError, match=f"{build.__name__}: statistics must be 'train' or 'all', got 'test'"):
            build(statistics="test")
