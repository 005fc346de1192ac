import json

import pytest
import torch
from PIL import Image

from csc_nets.data import TensorDataModule
from csc_nets.evaluation import save_report
from csc_nets.models import create_model


@pytest.fixture
def data():
    """Class 0 is dark, class 1 is bright."""
    labels = torch.arange(24) % 2
    images = torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(0)) / 10 + labels.view(-1, 1, 1, 1)
    options = {"class_names": ["dark", "bright"], "mean": (0.0,), "std": (1.0,), "name": "two", "batch_size": 8}
    return TensorDataModule(images, labels, val=(images, labels), test=(images, labels), **options)


def network():
    torch.manual_seed(0)
    source = {"source": "csc_nets/csc_small", "source_args": {"widths": [4, 6], "in_chans": 1}, "look_size": 8}
    options = {"atoms": 12, "k": 2, "layer": "stages.0", "pursuit": None, "fit": False}
    model = create_model("coded_activations", num_classes=2, in_chans=1, **options, **source)
    return model.eval()


def test_an_atom_shows_the_images_that_use_it_most(data, tmp_path):
    model = network()
    data.setup("test")
    images, labels = map(torch.cat, zip(*data.test_dataloader(), strict=True))
    model.sae.start_from(model.sae.samples(model.activations(images)))
    with torch.no_grad():
        z = model.sae(model.activations(images))
    text = save_report("activations", model, data, tmp_path, images=3)

    numbers = json.loads((tmp_path / "activations.json").read_text())
    atoms = [row for row in numbers if row["name"].startswith("atom ")]
    energy = z.square().sum((0, 2, 3))
    assert [int(row["name"].split()[1]) for row in atoms] == energy.topk(3).indices.tolist()
    compared = 0
    for row in atoms:
        peak = z[:, int(row["name"].split()[1])].flatten(1).amax(1)
        if (peak.topk(9).values.diff() < 0).all():  # no ties, which have no order
            counts = labels[peak.topk(8).indices].bincount()
            assert row["of_class"] == counts.max() and row["class"] == ["dark", "bright"][int(counts.argmax())]
            compared += 1
        assert row["used"] == pytest.approx((z[:, int(row["name"].split()[1])] != 0).double().mean().item(), abs=1e-6)
    assert compared
    values = {row["name"]: row["value"] for row in numbers if "value" in row}
    assert values["atoms"] == pytest.approx((z != 0).sum(1).double().mean().item(), abs=1e-6)
    assert "24 test images, layer stages.0" in text and Image.open(tmp_path / "activations.png").size[0] > 8 * 64


def test_other_networks_have_nothing_to_show(data, tmp_path):
    with pytest.raises(ValueError, match="CSCSmall has no sparse autoencoder of activations"):
        save_report("activations", create_model("csc_small", in_chans=1, widths=[4]), data, tmp_path)
