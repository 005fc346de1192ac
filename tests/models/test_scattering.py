import pytest
import torch

from csc_nets.models import create_model


def test_the_classifier_sees_every_position():
    model = create_model("scattering", in_chans=1, input_size=28, angles=4).eval()
    x = torch.randn(2, 1, 28, 28)
    features = model.forward_features(x)
    assert features.shape == (2, 25, 7, 7) and model.fc.in_features == 25 * 49
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), features.flatten(1))
    assert model(torch.randn(1, 1, 20, 33)).shape == (1, 10)  # the same number of parts of another size


def test_only_the_norm_and_the_classifier_are_learned():
    names = {name for name, _ in create_model("scattering", angles=2).named_parameters()}
    assert names == {"stages.0.1.weight", "stages.0.1.bias", "fc.weight", "fc.bias"}
    assert sum(p.numel() for p in create_model("scattering").parameters()) == 156_016


def test_it_learns_what_no_linear_classifier_of_pixels_can():
    # Two textures of random sign: their pixels have mean 0 in both classes.
    torch.manual_seed(0)
    sign, label = torch.randn(200).sign(), torch.arange(200) % 2
    waves = torch.cos(torch.arange(16) * 1.2).expand(16, 16)
    x = torch.stack([s * (waves if y else waves.T) for s, y in zip(sign, label, strict=True)])[:, None]
    model = create_model("scattering", num_classes=2, in_chans=1, input_size=16, angles=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(10):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), label).backward()
        optimizer.step()
    with torch.no_grad():
        assert (model.eval()(x).argmax(1) == label).all()


def test_a_wrong_size_is_refused_in_a_compiled_network():
    model = create_model("scattering", input_size=16, angles=2)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match=r"set input_size|Observed exception"):  # torch 2.6 hides the message
        compiled(torch.randn(1, 3, 20, 20))
