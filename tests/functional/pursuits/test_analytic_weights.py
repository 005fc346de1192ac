"""Analytic weights: the closed form is the limit of the published iteration, and optimal for convolutions."""

import pytest
import torch

from csc_nets.functional import ConvGeometry, analytic_weights, unit_norm


def test_the_closed_form_is_where_the_published_iteration_ends():
    torch.manual_seed(0)
    atoms = unit_norm(torch.randn(30, 12).double())
    w = atoms.clone()
    for _ in range(20_000):
        w = w - 0.1 * (w @ atoms.T - torch.eye(30).double()) @ atoms
        w = w + (1 - (w * atoms).sum(1, keepdim=True)) * atoms
    torch.testing.assert_close(analytic_weights(atoms), w, rtol=0, atol=1e-12)


def test_an_orthonormal_dictionary_is_its_own_weights():
    atoms = torch.linalg.qr(torch.randn(9, 9).double())[0]
    torch.testing.assert_close(analytic_weights(atoms), atoms)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((5, 2, 4), {}),
        ((5, 2, 4), {"stride": 2}),
        ((6, 2, 3, 3), {}),
        ((6, 2, 3, 2), {"stride": 2}),
        ((6, 1, 3, 3), {"stride": 3}),
        ((6, 2, 3, 3), {"dilation": 2}),
        ((4, 1, 2, 3, 2), {"stride": 2}),
    ],
)
def test_no_other_filters_meet_the_atoms_less(shape, options):
    """The explicit matrix of all shifts: a column for each atom and shift, one row for each sample."""
    torch.manual_seed(0)
    atoms = unit_norm(torch.randn(shape).double())
    geometry = ConvGeometry.create(len(shape) - 2, shape[2:], **options)
    w = analytic_weights(atoms, geometry)
    torch.testing.assert_close((w * atoms).flatten(1).sum(1), torch.ones(len(atoms)).double())
    code_size = (9,) * geometry.dims
    size = geometry.signal_size(code_size)
    middle = (slice(None), slice(None), *(4,) * geometry.dims)

    def meetings(filters):
        """Correlations of each filter, laid in the middle, with all atoms at all shifts."""
        code = torch.zeros(len(atoms), len(atoms), *code_size).double()
        code[middle] = torch.eye(len(atoms)).double()
        return geometry.analysis(geometry.synthesis(code, filters, size), atoms).flatten(1)

    # Optimal on the plane: the derivative has no part along it.
    w = w.requires_grad_()
    (slope,) = torch.autograd.grad(meetings(w).square().sum(), w)
    flat, d = slope.flatten(1), atoms.flatten(1)
    torch.testing.assert_close(flat, (flat * d).sum(1, keepdim=True) * d, rtol=0, atol=1e-9)
    assert meetings(w).square().sum() <= meetings(atoms).square().sum()


def test_an_atom_of_zeros_is_refused():
    with pytest.raises(ValueError, match="an atom of zeros"):
        analytic_weights(torch.zeros(3, 4))
