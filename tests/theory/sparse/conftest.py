"""Dictionaries and signals of the multi-layer model, shared by the tests of its theorems."""

import pytest
import torch

from csc_nets.layers import Dictionary1d
from csc_nets.theory.sparse.dictionary_design import low_coherence_atoms, sparse_atoms

SIZE = 128  # of the signals


def _circular(weight):
    atoms, channels, kernel = weight.shape
    layer = Dictionary1d(channels, atoms, kernel, padding="same", padding_mode="circular", dtype=weight.dtype)
    layer.weight = weight
    layer.refresh()
    return layer.eval().requires_grad_(False)


def _draw(samples, atoms, nonzeros, low=1.0, high=1.0, size=SIZE):
    """Codes with so many non-zeros of magnitude low to high, anywhere."""
    code = torch.zeros(samples, atoms * size, dtype=torch.float64)
    places = torch.rand(code.shape).argsort(1)[:, :nonzeros]
    signs = 2.0 * torch.randint(2, places.shape) - 1
    return code.scatter(1, places, signs * (low + (high - low) * torch.rand(places.shape, dtype=torch.float64))).view(
        samples, atoms, size
    )


def _signals(dictionaries, deepest):
    """All codes of a deepest one, shallow to deep, and the signal."""
    found = [deepest]
    for dictionary in reversed(dictionaries):
        found.append(dictionary.synthesis(found[-1], (SIZE,)))
    return found[-2::-1], found[-1]


def _matrix(dictionary, size=SIZE):
    """The dictionary's atoms, one a column."""
    atoms = dictionary.out_channels
    code = torch.eye(atoms * size, dtype=torch.float64).view(-1, atoms, size)
    return dictionary.synthesis(code, (size,)).flatten(1).T


@pytest.fixture(scope="session")
def circular():
    """The layer of given atoms, circular."""
    return _circular


@pytest.fixture(scope="session")
def draw():
    """Draws codes."""
    return _draw


@pytest.fixture(scope="session")
def signals():
    """Synthesises the other codes and the signal."""
    return _signals


@pytest.fixture(scope="session")
def matrix():
    """The matrix of a dictionary."""
    return _matrix


@pytest.fixture(scope="session")
def one_layer():
    """Two atoms of 48 samples, coherence 0.09: stripes of 95 of the 128 positions."""
    return [_circular(low_coherence_atoms(2, 1, [48], steps=300))]


@pytest.fixture(scope="session")
def two_layers():
    """Six nearly orthogonal atoms, and three above them with six non-zeros each, coherence 1/6."""
    return [
        _circular(low_coherence_atoms(6, 12, [6], steps=300)),
        _circular(sparse_atoms(3, 6, [12], 6, candidates=40)),
    ]
