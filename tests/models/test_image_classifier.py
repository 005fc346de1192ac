import pytest
import torch
from torch import nn

from csc_nets.models import create_model, list_models

CLASSIFIERS = [name for name in list_models() if hasattr(create_model(name, num_classes=1), "fc")]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_reset_classifier(name, narrow, images):
    model, x = narrow(name, num_classes=5).double().eval(), images().double()
    assert model.get_classifier() is model.fc and model.fc.out_features == 5
    model.reset_classifier(3)
    assert model(x).shape == (2, 3) and model.fc.weight.dtype == torch.float64 and model.num_classes == 3
    pooled = model.forward_head(model.forward_features(x), pre_logits=True)
    if (features := model.forward_features(x)).ndim == 4:
        expected = torch.nn.functional.adaptive_avg_pool2d(features, model.grid).flatten(1)
    else:  # tokens, the class token first
        expected = model.norm(features[:, 0])
    torch.testing.assert_close(pooled, expected)
    torch.testing.assert_close(model.fc(pooled), model(x))
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), nn.Identity)
    torch.testing.assert_close(model(x), pooled)


def test_features_are_averaged_over_parts_of_the_image(narrow, images):
    torch.manual_seed(0)
    model, x = create_model("invertible_cnn", widths=[4], grid=2, num_classes=5).eval(), images(size=(16, 16))
    features = model.forward_features(x)
    pooled = model.forward_head(features, pre_logits=True)
    expected = [features[..., i : i + 4, j : j + 4].mean((2, 3)) for i in (0, 4) for j in (0, 4)]
    torch.testing.assert_close(pooled, torch.stack(expected, 2).flatten(1))
    assert model.fc.in_features == 16 and model(x).shape == (2, 5)
    with pytest.raises(ValueError, match="grid must be an int >= 1, got 0"):
        create_model("invertible_cnn", grid=0)


def test_dropout_acts_in_training_only(narrow, images):
    x = images()
    model = narrow("csc_small", drop_rate=0.5)
    features = model.forward_features(x)
    assert (model.forward_head(features, pre_logits=True) == 0).any()
    assert torch.equal(model.eval().forward_head(features), model.forward_head(features))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"drop_rate": 1.0}, r"drop_rate must be in \[0, 1\), got 1.0"),
        ({"num_classes": -1}, "num_classes must be an int >= 0, got -1"),
        ({"num_classes": 2.0}, "num_classes must be a whole number, got 2.0"),
        ({"in_chans": 0}, "in_chan"),
    ],
)
def test_bad_arguments_are_refused(arguments, message, narrow):
    with pytest.raises(ValueError, match=message):
        narrow("csc_small", **arguments)
