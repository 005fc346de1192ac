from pathlib import Path

import pytest
import torch

from csc_nets.commands.models import FIGURES, main, multiplications, summary
from csc_nets.layers import CSC2d
from csc_nets.models import create_model, list_models


def test_multiplications_of_a_layer_are_those_of_its_convolutions():
    layer = torch.nn.Conv2d(3, 8, 3, padding=1)
    assert multiplications(layer, (3, 16, 16)) == 3 * 8 * 9 * 16 * 16
    one = CSC2d(3, 8, 3, padding=1, lam=0.1, steps=1).eval()
    three = CSC2d(3, 8, 3, padding=1, lam=0.1, steps=3).eval()
    assert multiplications(one, (3, 16, 16)) == 3 * 8 * 9 * 16 * 16
    assert multiplications(three, (3, 16, 16)) == 5 * 3 * 8 * 9 * 16 * 16  # D^T x, and twice D and D^T


def test_resnet_has_the_published_size():
    parameters, macs, image, _, text = summary("resnet18")
    assert (parameters, macs, image) == ("11,173,962", "555.42 M", "3 x 32 x 32")
    assert text == "ResNet-18, the baseline of SDNet-18"


@pytest.mark.parametrize("name", ["csc_small", "ml_csc_mnist"])
def test_a_line_of_the_table(name, capsys):
    main([name])
    head, line, *_ = capsys.readouterr().out.splitlines()
    assert head.split() == ["model", "parameters", "MACs", "image", "reached", "what", "it", "is"]
    number = sum(p.numel() for p in create_model(name).parameters())
    assert line.split()[:2] == [name, f"{number:,}"] and line.split()[3] in ("k", "M", "G")


def test_a_name_that_no_model_has(capsys):
    with pytest.raises(SystemExit):
        main(["nothing"])
    assert capsys.readouterr().err.startswith(f"error: no model fits 'nothing' (known: {list_models()[0]}, ")


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_those_of_the_pages(name):
    _, figure, page = FIGURES[name]
    assert name in list_models()
    assert figure in (Path(__file__).parents[2] / "docs" / page).read_text()
