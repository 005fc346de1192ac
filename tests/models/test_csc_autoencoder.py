import copy

import pytest
import torch
from torch import nn

from csc_nets.layers import CSC2d

DECODERS = [{"decoder": "separate"}, {"decoder": "shared"}, {"decoder": "shared", "detach_shared": True}]
IDS = ["separate", "shared", "detached"]


@pytest.mark.parametrize("arguments", DECODERS, ids=IDS)
@pytest.mark.parametrize("size", [(1, 1), (7, 8), (9, 14), (28, 28), (31, 2)])
def test_output_has_the_shape_of_any_input(arguments, size, narrow, images):
    model, x = narrow("csc_autoencoder", **arguments).eval(), images(size=size)
    assert model(x).shape == x.shape
    for stage in range(3):
        assert model.reconstruct(x, stage).shape == x.shape
    code = model.encode(x)
    torch.testing.assert_close(model.decode(code, size), model(x))
    assert code.shape == (2, 8, -(-size[0] // 8), -(-size[1] // 8))


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 4},
        {"kernel_size": [5, 3, 4], "stride": [1, 2, 3], "padding": [2, 1, 1]},
        {
            "widths": [4, 6, 8, 5],
            "kernel_size": 4,
            "stride": [2, 2, 2, 1],
            "padding": [1, 1, 1, 0],
            "signed_code": True,
        },
    ],
)
def test_other_windows(arguments, narrow, images):
    for decoder in ("separate", "shared"):
        model = narrow("csc_autoencoder", decoder=decoder, **arguments).eval()
        for size in ((32, 32), (35, 41)):
            x = images(size=size)
            assert model(x).shape == x.shape
    x = images(size=(36, 36))
    assert model.decode(model.encode(x)).shape[2:] in [(36, 36), (32, 32)]
    assert (model.encode(x) < 0).any() == arguments.get("signed_code", False)


@pytest.mark.parametrize("arguments", DECODERS, ids=IDS)
def test_one_stage_decodes_by_synthesis_of_the_normalised_code(arguments, narrow, images):
    model, x = narrow("csc_autoencoder", widths=[6], **arguments).eval(), images(size=(9, 9))
    norm = model.decoder.norms[0]
    norm.weight.data.uniform_(0.5, 2)
    dictionary = model.decoder.dictionaries[0] if arguments["decoder"] == "separate" else model.stages[0][0].dictionary
    code = model.encode(x)
    expected = nn.functional.conv_transpose2d(norm(code), dictionary.weight, stride=2, padding=1)
    torch.testing.assert_close(model(x), expected)


def test_decoding_an_inner_stage_skips_the_deeper_ones(narrow, images):
    model, x = narrow("csc_autoencoder").eval(), images()
    inner = model.reconstruct(x, 0)
    with torch.no_grad():
        for parameter in [*model.stages[1:].parameters(), *model.decoder.dictionaries[:2].parameters()]:
            parameter.normal_()
    assert torch.equal(model.reconstruct(x, 0), inner)
    assert not torch.allclose(model(x), inner)


def test_codes_are_sparse_and_non_negative(narrow, images):
    few, many = narrow("csc_autoencoder", lam=1.0).eval(), narrow("csc_autoencoder", lam=0.01).eval()
    densities = []
    for model in (few, many):
        codes = model.forward_intermediates(images())[1]
        assert all((code >= 0).all() for code in codes)
        densities.append((codes[0] > 0).float().mean())
    assert densities[0] < densities[1]


def test_shared_decoder_has_no_dictionary_of_its_own(narrow):
    shared, separate = narrow("csc_autoencoder", decoder="shared"), narrow("csc_autoencoder")
    atoms = sum(m.atoms.numel() for m in shared.modules() if isinstance(m, CSC2d))
    assert sum(p.numel() for p in separate.parameters()) - sum(p.numel() for p in shared.parameters()) == atoms
    assert {key.split(".")[1] for key in shared.state_dict() if key.startswith("decoder.")} == {"norms"}


def test_shared_dictionaries_get_the_decoders_gradient_unless_detached(narrow, images):
    x = images()
    gradients = {}
    for key, arguments in zip(IDS, DECODERS, strict=True):
        model = narrow("csc_autoencoder", **arguments)
        code = model.encode(x).detach()
        model.decode(code, x.shape[2:]).square().sum().backward()
        gradients[key] = [p.grad for p in model.stages.parameters() if p.ndim > 1]
    assert all(g.abs().sum() > 0 for g in gradients["shared"])
    assert all(g is None for g in gradients["separate"] + gradients["detached"])


@pytest.mark.parametrize("arguments", DECODERS[1:], ids=IDS[1:])
def test_shared_decoder_survives_copy_compile_and_export(arguments, narrow, images):
    model, x = narrow("csc_autoencoder", **arguments).eval(), images()
    expected = model(x)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    torch.testing.assert_close(twin(x), expected)
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(twin, fullgraph=True, backend="eager")(x), expected)
    torch.testing.assert_close(torch.export.export(twin, (x,)).module()(x), expected)
    restored = narrow("csc_autoencoder", **arguments).eval()
    restored.load_state_dict(twin.state_dict())
    torch.testing.assert_close(restored(x), expected)


def test_learns_to_reconstruct(narrow):
    torch.manual_seed(0)
    x = 5 * nn.functional.avg_pool2d(torch.randn(16, 3, 20, 20), 5, 1, 2)
    model = narrow("csc_autoencoder", widths=[16, 48])
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), x)
        loss.backward()
        optimizer.step()
    assert loss < 0.35 * x.var()  # the mean image alone leaves x.var()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"decoder": "tied"}, "decoder must be 'separate' or 'shared', got 'tied'"),
        ({"detach_shared": True}, "detach_shared=True needs decoder='shared', got decoder='separate'"),
        ({"stride": [2, 2]}, r"stride must be one int or 3, one for each stage, got \[2, 2\]"),
        ({"widths": []}, r"widths must be at least one positive int, got \[\]"),
    ],
)
def test_bad_arguments_are_refused(arguments, message, narrow):
    with pytest.raises(ValueError, match=message):
        narrow("csc_autoencoder", **arguments)


def test_code_and_size_that_do_not_fit_are_refused(narrow, images):
    model = narrow("csc_autoencoder").eval()
    with pytest.raises(ValueError, match=r"output_size .* does not fit a code of size \(2, 2\)"):
        model.decode(model.encode(images()), (40, 40))
