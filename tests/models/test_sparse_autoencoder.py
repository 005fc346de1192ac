"""Closed-form limits: one basis is the thresholded DCT, lam 0 is the image, a large lam is nothing."""

import pytest
import torch

import csc_nets
from csc_nets.evaluation.transform_coding import BlockTransform
from csc_nets.functional import Stagewise, dct_atoms
from csc_nets.models import SparseAutoencoder


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.randn(3, 3, 16, 16).cumsum(2).cumsum(3) / 10


def test_one_size_and_no_training_is_the_thresholded_dct(images):
    model = SparseAutoencoder(3, sizes=[8], lam=0.5).eval()
    model.start_from(images)
    code = BlockTransform(BlockTransform.dct(images, 8).basis, torch.zeros(3, 1, 1).double(), 8).analysis(images)
    kept = torch.where(code.abs() > 1, code, 0.0).flatten(1)  # sqrt(2 lam)
    found = model.encode(images).flatten(1)
    assert found.count_nonzero() == kept.count_nonzero()
    torch.testing.assert_close(found.norm(dim=1).double(), kept.norm(dim=1), rtol=1e-5, atol=0)


def test_each_thing_is_said_by_atoms_of_its_size():
    """One wave over the whole image and one small block: two numbers, where one size alone needs far more."""
    large, small = (dct_atoms(torch.eye(1), size)[9, 0].float() for size in (16, 4))
    image = 4 * large
    image[4:8, 8:12] += 3 * small
    counts = [
        SparseAutoencoder(1, sizes=sizes, lam=0.005).eval().encode(image[None, None]).count_nonzero().item()
        for sizes in ([4, 16], [4], [16])
    ]
    assert counts[0] == 2 and min(counts[1:]) > 10, counts


def test_lam_is_the_rate(images):
    model = SparseAutoencoder(3, sizes=[4, 8], refit=5).eval()
    counts = [model.encode(images, lam=lam).count_nonzero().item() for lam in (1e-4, 1e-2, 1.0, 1e6)]
    assert counts == sorted(counts, reverse=True) and counts[-1] == 0
    lam = torch.tensor([1e-4, 1e-2, 1.0]).view(3, 1, 1, 1)
    each = model.encode(images, lam=lam)
    torch.testing.assert_close(each[1:2], model.encode(images[1:2], lam=1e-2))
    torch.testing.assert_close(model(images.masked_fill(images == 7, 0)).shape, images.shape)


def test_patches_of_training_images_are_atoms(images):
    model = SparseAutoencoder(3, sizes=[8], frequencies=[2], patches=[5], pursuit=Stagewise(1, start=1.0, at_once=1))
    model.eval().start_from(images)
    atoms = model.dictionary.scales[0].weight[12:]
    cut = images.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    for atom in atoms:
        same = torch.cosine_similarity(cut.flatten(1), atom.flatten()[None])
        assert same.max() > 1 - 1e-5
        patch = cut[same.argmax()][None]  # one number says it
        z = model.encode(patch, lam=1e-4)
        assert z.count_nonzero() == 1
        torch.testing.assert_close(model.decode(z), patch, atol=1e-3, rtol=1e-3)
    with pytest.raises(ValueError, match="patches"):
        SparseAutoencoder(3, sizes=[8], patches=[5000]).start_from(images)


def test_scales_sum_to_the_image(images):
    model = SparseAutoencoder(3, sizes=[4, 8]).eval()
    z = model.encode(images)
    torch.testing.assert_close(sum(model.by_scale(z)), model.decode(z))


def test_missing_pixels_are_not_read(images):
    model = SparseAutoencoder(3, sizes=[4, 8], refit=3).eval()
    mask = torch.rand(3, 1, 16, 16) > 0.3
    z = model.encode(images, mask=mask)
    torch.testing.assert_close(model.encode(images.masked_fill(~mask, float("nan")), mask=mask), z)
    filled = model.decode(z, (16, 16))
    missing = ~mask.expand_as(images)
    assert (filled - images)[missing].square().mean() < 0.5 * images[missing].square().mean()


def test_tiles_are_equal_to_the_whole():
    """Atoms that do not overlap: any cut between blocks of the largest size, also with missing pixels."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, 40, 57, generator=generator).cumsum(2).cumsum(3) / 10
    mask = torch.rand(1, 1, 40, 57, generator=generator) > 0.2
    model = SparseAutoencoder(3, sizes=[4, 8, 16], steps=12, refit=3).eval()
    for seen in (None, mask):
        whole = model.encode(image, mask=seen)
        rows = [
            torch.cat(
                [
                    model.encode(
                        image[..., i : i + 16, j : j + 32],
                        mask=None if seen is None else seen[..., i : i + 16, j : j + 32],
                    )
                    for j in (0, 32)
                ],
                3,
            )
            for i in (0, 16, 32)
        ]
        tiles = torch.cat(rows, 2)
        assert torch.equal(tiles != 0, whole != 0)
        torch.testing.assert_close(tiles, whole, atol=1e-4, rtol=1e-4)


def test_a_second_stage_that_reads_all_is_a_scale_of_pixels(images):
    """The first stage is a basis, so combinations of all of its atoms are all atoms."""
    one = SparseAutoencoder(3, sizes=[4, 16], frequencies=[4, 3], lam=0.01, steps=8)
    two = SparseAutoencoder(3, sizes=[4], frequencies=[4], above=3, below=4, reach=4, lam=0.01, steps=8)
    for model in (one, two):
        model.eval().start_from(images)
    z = two.encode(images)
    torch.testing.assert_close(two.decode(z), one.decode(one.encode(images)), atol=1e-4, rtol=1e-4)
    first, second = two.by_scale(z)
    torch.testing.assert_close(first + second, two.decode(z))
    assert second.abs().max() > 0


def test_an_untied_decoder_starts_as_the_dictionary_and_goes_its_own_way(images):
    model = SparseAutoencoder(3, sizes=[4, 8], tied=False, steps=5).eval()
    model.start_from(images)
    z = model.encode(images)
    torch.testing.assert_close(model.decode(z), model.coder.synthesize(z))
    (model(images) - images).square().sum().backward()
    grads = {name: p.grad is not None and p.grad.abs().sum() > 0 for name, p in model.named_parameters()}
    assert grads and all(found == name.startswith("decoder") for name, found in grads.items())


@pytest.mark.parametrize("more", [{}, {"tied": False}, {"above": 2, "below": 3}])
def test_built_again_from_its_arguments(more):
    model = csc_nets.create_model("sparse_autoencoder", in_chans=1, sizes=[4, 8], frequencies=[4, 2], **more)
    again = csc_nets.create_model(model.model_name, **model.model_args)
    again.load_state_dict(model.state_dict())
    x = torch.randn(1, 1, 11, 17)
    torch.testing.assert_close(again(x), model(x))


BAD = [
    {"sizes": []},
    {"frequencies": [8]},
    {"frequencies": [9, 16, 32]},
    {"refit": -1},
    {"patches": [1]},
    {"above": 2, "below": 33},
]


@pytest.mark.parametrize("arguments", BAD)
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match="must be"):
        SparseAutoencoder(3, **arguments)
