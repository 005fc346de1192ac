import pytest
import torch

from csc_nets.models import create_model


@pytest.fixture
def trained():
    torch.manual_seed(0)
    return create_model("csc_small", num_classes=4, widths=[4, 6])


def build(path, **arguments):
    return create_model("csc_small", **{"num_classes": 4, "widths": [4, 6], "checkpoint_path": path, **arguments})


def test_round_trip(trained, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    state = build(tmp_path / "weights.pt").state_dict()
    assert all(torch.equal(value, state[key]) for key, value in trained.state_dict().items())


def test_other_classes_keep_the_fresh_classifier(trained, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    model = build(tmp_path / "weights.pt", num_classes=9)
    state = model.state_dict()
    assert state["fc.weight"].shape == (9, 6)
    assert all(torch.equal(v, state[k]) for k, v in trained.state_dict().items() if not k.startswith("fc."))


def test_other_network_is_refused(trained, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"weights.pt does not fit csc_small: see stages\."):
        build(tmp_path / "weights.pt", widths=[4, 7])
    with pytest.raises(ValueError, match=r"does not fit resnet18: see .* and [0-9]+ more$"):
        create_model("resnet18", checkpoint_path=tmp_path / "weights.pt")


def test_damaged_missing_and_foreign_files_are_refused(trained, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "weights.pt").read_bytes()[:500])
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"cut.pt is not a file of weights"):
        build(tmp_path / "cut.pt")
    with pytest.raises(ValueError, match=r"list.pt must hold a state dict \(name: tensor\), got list"):
        build(tmp_path / "list.pt")
    with pytest.raises(FileNotFoundError, match=r"absent.pt"):
        build(tmp_path / "absent.pt")
