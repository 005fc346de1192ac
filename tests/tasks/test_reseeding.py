import pytest
import torch
from torch.nn.functional import pad, unfold

from csc_nets.functional import ConvGeometry
from csc_nets.layers import Dictionary2d
from csc_nets.tasks.reseeding import largest_patches, move, moves_to_centre, rarely_used, redundant, residual_atoms


def test_an_atom_is_rarely_used_below_a_share_of_the_average():
    mass = torch.tensor([1.0, 0.0, 7.0, 0.39, 0.41, 3.2])  # mean 2
    assert rarely_used(mass, 0.2).tolist() == [1, 3]
    assert rarely_used(mass, 0.0).tolist() == [1]
    assert rarely_used(torch.zeros(3), 0.5).tolist() == [0, 1, 2]  # a dictionary that died altogether


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 0), (3, 1, 1), (4, 2, 3), ((2, 3), (2, 1), 0)])
def test_patches_are_those_that_unfold_finds(kernel, stride, padding):
    x = torch.randn(6, 2, 9, 11)
    geometry = ConvGeometry.create(2, kernel, stride, padding)
    windows = unfold(pad(x, [padding] * 4), geometry.kernel_size, stride=geometry.stride)  # (N, C * kernel, places)
    energy, at = windows.square().sum(1).max(1)
    order = energy.argsort(descending=True)[:4]
    expected = windows[order, :, at[order]].view(4, 2, *geometry.kernel_size)
    torch.testing.assert_close(largest_patches(x, geometry, 4), expected)
    assert len(largest_patches(x, geometry, 99)) == 6


def test_new_atoms_are_what_the_image_lacks_most():
    dictionaries = [Dictionary2d(1, 3, 5, padding=2)]
    planted = torch.randn(5, 5)
    residual = 0.01 * torch.randn(2, 1, 16, 16)
    residual[1, 0, 4:9, 6:11] += planted
    (atom,) = residual_atoms(dictionaries, residual, 0, 1)
    assert (atom[0] * planted / planted.norm()).sum() > 0.99
    assert atom.norm() == pytest.approx(1)


def test_a_deeper_layer_sees_the_residual_through_the_ones_before():
    dictionaries = [Dictionary2d(1, 4, 5, stride=2), Dictionary2d(4, 6, 3)]
    planted = torch.zeros(1, 4, 3, 3)
    planted[0, [0, 2, 3], [1, 0, 2], [0, 2, 1]] = torch.tensor([1.0, -1, 1])
    residual = torch.zeros(2, 1, 25, 25)
    residual[:1, :, 8:17, 6:15] = dictionaries[0].synthesis(planted, (9, 9))
    (atom,) = residual_atoms(dictionaries, residual, 1, 2)  # the second image leaves no residual, and gives no atom
    seen = dictionaries[0].analysis(residual)[0, :, 4:7, 3:6]
    torch.testing.assert_close(atom, seen / seen.norm(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("stride", "found"), [((1, 1), [0]), ((2, 2), [0]), ((3, 3), [])])
def test_a_moved_copy_is_redundant_where_the_code_can_move(stride, found):
    atoms = torch.zeros(3, 1, 9, 9)
    atoms[1, 0, 1:6, 1:6] = torch.randn(5, 5)
    atoms[0] = -atoms[1].roll((2, 2), (1, 2))
    atoms[2, 0, 2:7, 2:7] = torch.randn(5, 5)
    atoms /= atoms.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert redundant(atoms, stride, torch.tensor([1.0, 2.0, 3.0]), 0.95).tolist() == found
    assert redundant(atoms, stride, torch.tensor([2.0, 2.0, 3.0]), 0.95).tolist() == [1] * len(found)  # the first stays
    assert redundant(atoms, stride, torch.tensor([1.0, 2.0, 3.0]), 1.1).tolist() == []


def centred(atoms, stride):
    return move(atoms, moves_to_centre(atoms, stride))


def test_no_copy_is_redundant_at_similarity_one():
    atoms = torch.randn(40, 1, 5, 5)
    atoms /= atoms.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    twice = torch.cat([atoms, atoms])  # rounding puts some correlations above 1
    mass = torch.arange(80.0)
    assert redundant(twice, (1, 1), mass, 0.999).tolist() == list(range(40))
    assert redundant(twice, (1, 1), mass, 1.0).tolist() == []


def test_atoms_move_to_the_middle_by_whole_steps_of_the_code():
    core = torch.rand(2, 3, 3) + 0.5
    atoms = torch.zeros(3, 2, 9, 9)
    atoms[0, :, :3, 6:] = core
    atoms[1, :, 3:6, 3:6] = core
    atoms[2] = torch.rand(2, 9, 9) + 1
    moved = centred(atoms, (1, 1))
    torch.testing.assert_close(moved[0], moved[1])
    torch.testing.assert_close(moved[1:], atoms[1:])
    by_two = centred(atoms, (2, 2))[0]
    assert by_two.square().sum().item() == pytest.approx(atoms[0].square().sum().item())
    assert by_two.nonzero()[:, 1].min().item() % 2 == 0


def test_an_atom_that_would_be_cut_off_stays():
    atoms = torch.zeros(1, 1, 1, 9)
    atoms[..., :5] = torch.tensor([2.0, 0, 0, 0, 0])
    atoms[..., 8] = 1.0  # moving to the right would lose a fifth of the energy
    assert torch.equal(centred(atoms, (1, 1)), atoms)
