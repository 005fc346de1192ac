import torch

from csc_nets.functional import colour_axes, dct_atoms, dct_matrix


def test_a_basis():
    rows = dct_matrix(6)
    torch.testing.assert_close(rows @ rows.T, torch.eye(6, dtype=torch.float64))
    axes = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double()).Q
    atoms = dct_atoms(axes, 4).flatten(1)
    torch.testing.assert_close(atoms @ atoms.T, torch.eye(48, dtype=torch.float64))
    lowest = dct_atoms(axes, 4, 2)
    assert lowest.shape == (12, 3, 4, 4)
    torch.testing.assert_close(dct_atoms(axes, 4)[:12], lowest)


def test_axes_of_colours_that_lie_on_a_line():
    grey = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    mean, axes = colour_axes(torch.cat([2 * grey, grey, 2 * grey], 1))
    torch.testing.assert_close(axes[0].abs(), torch.tensor([2.0, 1, 2], dtype=torch.float64) / 3)
    torch.testing.assert_close(mean, torch.tensor([2.0, 1, 2], dtype=torch.float64) * grey.double().mean())
