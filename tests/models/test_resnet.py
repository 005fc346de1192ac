import pytest
import torch

from csc_nets.models import create_model

torchvision = pytest.importorskip("torchvision")


@pytest.mark.parametrize("name, size", [("resnet18", 64), ("resnet34", 33)])
def test_equals_torchvision(name, size):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)(num_classes=20).eval()
    ours = create_model(name, num_classes=20, stem="imagenet").eval()
    keys, values = list(ours.state_dict()), list(theirs.state_dict().values())
    ours.load_state_dict(dict(zip(keys, values, strict=True)))
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)
    assert [info["reduction"] for info in ours.feature_info] == [4, 4, 8, 16, 32]


@pytest.mark.parametrize(
    "name, stem, num_classes, millions",
    [
        ("resnet18", "cifar", 10, 11.174),
        ("resnet34", "cifar", 10, 21.282),
        ("resnet20", "cifar", 10, 0.272),
        ("resnet32", "cifar", 10, 0.467),
        ("resnet18", "imagenet", 1000, 11.690),
        ("resnet34", "imagenet", 1000, 21.798),
    ],
)
def test_number_of_parameters(name, stem, num_classes, millions):
    with torch.device("meta"):
        model = create_model(name, stem=stem, num_classes=num_classes)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 3) == millions
