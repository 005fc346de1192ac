"""Every registered network through the same checks."""

import copy
import io
import sys

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from versions import exporting, fake_devices

from csc_nets.layers import CSC2d, DenseDictionary, Dictionary2d, SparsePriorConv2d
from csc_nets.models import ClosedLoop, FeatureExtractor, ImageClassifier, create_model, list_models

pytestmark = pytest.mark.parametrize("name", list_models())


def train_step(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """One forward and backward in training mode; the output."""
    model.train()
    model.zero_grad()
    y = model(x)
    y.float().square().mean().backward()
    return y.detach()


@pytest.mark.parametrize("channels, size", [(3, (16, 16)), (1, (15, 18))])
def test_output_shape_and_gradient_of_every_parameter(name, channels, size, narrow, images):
    model = narrow(name, in_chans=channels, num_classes=7)
    if isinstance(model, ClosedLoop) and size == (15, 18):  # its last atoms need 16
        size = (19, 21)
    x = images(channels, size)
    y = train_step(model, x)
    assert y.shape == ((2, 7) if isinstance(model, ImageClassifier) else x.shape)
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        assert (parameter.grad != 0).any(), key


def test_evaluation_changes_nothing_and_treats_samples_alone(name, narrow, images):
    model, x = narrow(name), images()
    train_step(model, x)
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        y = model.eval()(x)
        torch.testing.assert_close(model(x[:1]), y[:1], rtol=1e-4, atol=1e-5)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_intermediates_and_features_only_agree_with_the_whole(name, narrow, images):
    model, loop = narrow(name).eval(), name.split("_")[1:2] == ["ctrl"]
    x = images(size=(16, 20) if loop else (17, 20))
    features, outputs = model.forward_intermediates(x)
    torch.testing.assert_close(features, model.forward_features(x))
    if model.patch_size:  # a class token and the tokens of a grid of patches, row by row
        assert features.shape == (2, 1 + outputs[-1][0, 0].numel(), model.num_features)
        features = features[:, 1:].mT.reshape(outputs[-1].shape)
    torch.testing.assert_close(features, outputs[-1])
    assert features.shape[1] == model.num_features
    for info, output in zip(model.feature_info, outputs, strict=True):
        assert output.shape[1] == info["num_chs"]
        if not (loop and output is outputs[-1]):  # whose atoms are as large as the image, without padding
            assert list(output.shape[2:]) == [-(-n // info["reduction"]) for n in x.shape[2:]]
        assert info["module"] in dict(model.named_modules())
    chosen = sorted({0, max(0, len(outputs) - 2)})  # the same one where there are one or two stages
    part = narrow(name, features_only=True, out_indices=chosen).eval()
    assert isinstance(part, FeatureExtractor)
    for ours, whole in zip(part(x), [outputs[i] for i in chosen], strict=True):
        torch.testing.assert_close(ours, whole)
    assert [info["module"] for info in part.feature_info] == [model.feature_info[i]["module"] for i in chosen]
    assert sum(p.numel() for p in part.parameters()) < sum(p.numel() for p in model.parameters())


def test_name_and_arguments_rebuild_the_network(name, narrow, images):
    for extra in ({}, {"features_only": True, "out_indices": [-1]}):
        model, x = narrow(name, in_chans=1, **extra), images(1)
        model.train()(x)
        stream = io.BytesIO()
        torch.save({"name": model.model_name, "args": model.model_args, "state": model.state_dict()}, stream)
        stream.seek(0)
        saved = torch.load(stream, weights_only=True)
        again = create_model(saved["name"], **saved["args"])
        again.load_state_dict(saved["state"])
        torch.testing.assert_close(again.eval()(x), model.eval()(x), rtol=0, atol=0)


def test_deepcopy_is_equal_and_apart(name, narrow, images):
    model, x = narrow(name), images()
    y = train_step(model, x)
    other = copy.deepcopy(model)
    before = copy.deepcopy(model.state_dict())
    assert torch.equal(train_step(other, x).isfinite(), y.isfinite())
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert other.model_args == model.model_args and other.model_args is not model.model_args


@pytest.mark.parametrize("training", [True, False])
def test_compiles_as_one_graph(name, training, narrow, images):
    torch.compiler.reset()
    model, x = narrow(name).train(training), images()
    expected = copy.deepcopy(model)(x)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), expected)


def test_exports_with_a_free_batch_size(name, narrow, images):
    model = narrow(name).eval()
    sizes = ({0: torch.export.Dim("batch", min=1, max=64)},)
    with exporting():
        program = torch.export.export(model, (images(),), dynamic_shapes=sizes)
    x = images(count=5)
    torch.testing.assert_close(program.module()(x), model(x))


def test_channels_last_gives_the_same(name, narrow, images):
    model, x = narrow(name).eval(), images()
    expected = model(x)
    model = model.to(memory_format=torch.channels_last)
    x = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    features = model.forward_features(x)
    assert features.is_contiguous(memory_format=torch.channels_last) if features.ndim == 4 else features.is_contiguous()
    assert train_step(model, x).isfinite().all()


def test_bfloat16_autocast_stays_near_float32(name, narrow, images):
    model, x = narrow(name), images(count=4)
    exact = copy.deepcopy(model)(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = train_step(model, x)
    assert (rough.float() - exact).norm() < 0.1 * exact.norm()
    for key, parameter in model.named_parameters():
        assert parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all(), key
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_networks_of_half_precision_train_and_stay_near(name, narrow, images):
    """``.to(torch.bfloat16)``: weights, images and output, without autocast."""
    model, x = narrow(name), images(count=4)
    exact = copy.deepcopy(model)(x)
    half = copy.deepcopy(model).to(torch.bfloat16)
    rough = train_step(half, x.bfloat16())
    assert rough.dtype == torch.bfloat16 and (rough.float() - exact).norm() < 0.2 * exact.norm()
    assert half.eval()(x.bfloat16()).isfinite().all()


def test_checkpointing_changes_neither_gradients_nor_buffers(name, narrow, images):
    plain, x = narrow(name), images()
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    assert torch.equal(train_step(plain, x), train_step(saving, x))
    for (key, ours), theirs in zip(saving.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-7, msg=key)
    for key, value in saving.state_dict().items():
        assert torch.equal(value, plain.state_dict()[key]), key


def test_no_weight_decay_spares_norms_biases_and_dictionaries(name, narrow):
    model = narrow(name)
    spared = model.no_weight_decay()
    decayed = {key for key, _ in model.named_parameters()} - spared
    kinds = {key: type(model.get_submodule(key.rpartition(".")[0])) for key in decayed}
    # A dictionary without unit norm has plain weights.
    plain = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, DenseDictionary, Dictionary2d)
    assert all(issubclass(kind, plain) and key.endswith("weight") for key, kind in kinds.items())
    assert all(key in dict(model.named_parameters()) for key in spared)


def test_wrong_channels_are_refused_in_one_line(name, narrow, images):
    with pytest.raises(ValueError, match=rf"^{name}: expected images \(N, 3, H, W\), got \(2, 1, 16, 16\)$"):
        narrow(name)(images(1))


def test_configuration_names_what_a_user_replaces(name, narrow):
    model = narrow(name, in_chans=1)
    cfg = model.pretrained_cfg
    assert cfg == model.default_cfg and cfg["architecture"] == name and cfg["input_size"][0] == 1
    modules = dict(model.named_modules())
    assert cfg["first_conv"] in modules
    if "classifier" in cfg:
        assert modules[cfg["classifier"]] is model.get_classifier()


@fake_devices
@pytest.mark.parametrize("training", [True, False])
def test_runs_on_an_accelerator_whose_tensors_have_no_values(name, training, narrow):
    model = narrow(name).train(training)
    size = model.input_size if name == "scattering" else 16  # it makes other filters on the CPU
    with FakeTensorMode() as mode, torch.no_grad():
        tensors = [*model.named_parameters(), *model.named_buffers()]
        state = {key: mode.from_tensor(tensor).to("cuda") for key, tensor in tensors}
        y = torch.func.functional_call(model, state, (torch.empty(2, 3, size, size, device="cuda"),))
    assert y.device.type == "cuda"


def test_a_graph_of_torch_fx_keeps_coded_layers_whole(name, narrow, images):
    model, x = narrow(name).eval(), images()
    if not isinstance(model, ImageClassifier):
        model = narrow(name, features_only=True).eval()
    graph = torch.fx.symbolic_trace(model)
    for ours, theirs in zip(_several(graph(x)), _several(model(x)), strict=True):
        assert torch.equal(ours, theirs)


def _several(outputs):
    return outputs if isinstance(outputs, list | tuple) else [outputs]


def test_torchvision_takes_features(name, narrow, images):
    feature_extraction = pytest.importorskip("torchvision.models.feature_extraction", reason="torchvision")
    model, x = narrow(name).eval(), images()
    if not isinstance(model, ImageClassifier) or len(model.stages) < 2:
        return
    extractor = feature_extraction.create_feature_extractor(model, {"stages.1": "map"})
    (expected,) = model.forward_intermediates(x, [1], intermediates_only=True)
    found = extractor(x)["map"]
    assert torch.equal(found[:, 1:].mT.reshape(expected.shape) if model.patch_size else found, expected)


def test_the_whole_module_is_written_and_read(name, narrow, images):
    model, x = narrow(name), images()
    model.train()(x)
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    again = torch.load(stream, weights_only=False)
    assert repr(again) == repr(model) and list(again.state_dict()) == list(model.state_dict())
    torch.testing.assert_close(again.eval()(x), model.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize("training", [True, False])
def test_no_forward_calls_what_autoattack_takes_for_a_gradient(name, training, narrow, images):
    """AutoAttack warns of a "dynamic defense" where a forward calls a function of one of these names."""
    model, x, seen = narrow(name).train(training), images(), []

    def note(frame, event, argument):
        if event == "call" and frame.f_code.co_name in ("grad", "backward", "_make_grads"):
            seen.append(frame.f_code.co_filename)

    before = sys.gettrace()
    sys.settrace(note)
    try:
        model(x)
    finally:
        sys.settrace(before)
    assert not seen


@pytest.mark.gpu
def test_a_gpu_gives_what_a_cpu_gives(name, narrow, images):
    model, x = narrow(name).eval(), images()
    expected = model(x)
    model = model.cuda()
    torch.testing.assert_close(model(x.cuda()).cpu(), expected, rtol=1e-3, atol=1e-4)
    assert train_step(model, x.cuda()).isfinite().all()
    assert all(p.grad.is_cuda and p.grad.isfinite().all() for p in model.parameters())


def test_the_gradient_and_the_tolerance_reach_every_coded_layer(name, narrow, images):
    model = narrow(name)
    if not any(isinstance(module, CSC2d) and not isinstance(module, SparsePriorConv2d) for module in model.modules()):
        return  # nothing to reach: one step of a prior is no pursuit
    again = narrow(name, gradient="recompute")
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(train_step(again, images()), train_step(model, images()), rtol=1e-4, atol=1e-5)
    solved = narrow(name, steps=None, tol=1e-2)
    for network, gradient in ((again, "recompute"), (solved, "implicit")):
        layers = [module for module in network.modules() if isinstance(module, CSC2d)]
        assert {layer.gradient.registered_name for layer in layers} == {gradient}
