import pytest
import torch

from csc_nets.tasks.masks import check_mask, fill_by_interpolation, random_masks


@pytest.mark.parametrize(("share", "size"), [(0.0, 1), (0.25, 4), (0.5, 1)])
def test_the_share_is_hidden_in_squares(share, size):
    seen = random_masks(torch.zeros(3, 2, 16, 16), share, size, torch.Generator().manual_seed(0))
    assert seen.shape == (3, 1, 16, 16)
    assert (~seen).float().mean((1, 2, 3)).tolist() == pytest.approx([share] * 3)
    squares = seen.float().unfold(2, size, size).unfold(3, size, size).flatten(4).mean(4)
    assert set(squares.unique().tolist()) <= {0.0, 1.0}
    assert share == 0 or not torch.equal(seen[0], seen[1])


def test_a_plane_is_filled_exactly():
    rows, columns = torch.meshgrid(torch.arange(9.0), torch.arange(7.0), indexing="ij")
    image = torch.stack([rows + 2 * columns, -rows])[None]
    seen = torch.rand(1, 1, 9, 7, generator=torch.Generator().manual_seed(0)) > 0.5
    seen[..., [0, 0, -1, -1], [0, -1, 0, -1]] = True  # all is inside
    filled = fill_by_interpolation(image.masked_fill(~seen, torch.nan), seen)
    torch.testing.assert_close(filled, image, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("mask", "size"), [(1.0, 1), (-0.1, 1), (True, 1), (0.5, 0), (0.5, 1.5)])
def test_bad_values(mask, size):
    with pytest.raises(ValueError, match="must be"):
        check_mask(mask, size)


def test_words_are_allowed_where_they_are_named():
    check_mask("mosaic", 1, words=["mosaic"])
    with pytest.raises(ValueError, match=r"hidden must be a share of the pixels in \[0, 1\), got 'mosaic'$"):
        check_mask("mosaic", 1, name="hidden")
