"""Certified labels against the errors that would change them, and against attacks on a system of one and two layers."""

import math

import pytest
import torch

from csc_nets.functional import fista, hard_threshold, soft_threshold
from csc_nets.layers import Dictionary1d
from csc_nets.theory import (
    basis_pursuit,
    global_stability,
    hard_thresholding,
    label_certificate,
    measure,
    patch_norm,
    soft_thresholding,
)
from csc_nets.theory.sparse.dictionary_design import low_coherence_atoms, sparse_atoms

SIZE = 32


def toward(weight, label, other, q):
    """The error of unit dual norm that moves the logits of ``other`` past those of ``label`` fastest."""
    difference = weight[other] - weight[label]
    return difference / difference.norm(dim=1, keepdim=True).clamp_min(1e-9) if q == 2 else difference.sign()


@pytest.mark.parametrize("q", [1, 2])
def test_radius_is_the_distance_to_another_label(q):
    weight, bias = torch.randn(5, 12, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    code = torch.randn(200, 12, dtype=torch.float64)
    logits = code @ weight.T + bias
    certificate = label_certificate(logits, weight, 0.5, q=q)
    assert torch.equal(certificate.label, logits.argmax(1))
    two = logits.topk(2).values
    torch.testing.assert_close(certificate.margin, two[:, 0] - two[:, 1])
    assert torch.equal(certificate.certified, certificate.radius > 0.5)
    assert certificate.certified.any() and not certificate.certified.all()
    flipped = torch.zeros(200, dtype=torch.bool)
    for other in range(5):
        step = toward(weight, certificate.label, torch.full((200,), other), q) * certificate.radius[:, None]
        for factor in (1 - 1e-9, 1 + 1e-9):
            changed = ((code + factor * step) @ weight.T + bias).argmax(1) != certificate.label
            assert factor > 1 or not changed.any()
        flipped |= changed
    assert flipped.all()
    # The single number of the paper is never larger.
    norms = torch.cdist(weight, weight, p=q)
    assert (certificate.radius >= certificate.margin / norms.max() - 1e-12).all()
    random = torch.randn(50, 200, 12, dtype=torch.float64)
    random /= random.norm(dim=2, keepdim=True) if q == 2 else random.abs().amax(2, keepdim=True)
    found = ((code + random * certificate.radius[:, None] * (1 - 1e-9)) @ weight.T + bias).argmax(2)
    assert (found == certificate.label).all()


@pytest.mark.parametrize("q", [1, 2])
def test_mean_over_positions_is_the_flattened_code_with_small_weights(q):
    weight, code = torch.randn(3, 4), torch.randn(6, 4, 7)
    pooled = label_certificate(code.mean(2) @ weight.T, weight, 0.1, q=q, positions=7)
    spread = (weight / 7).repeat_interleave(7, dim=1)
    flat = label_certificate(code.flatten(1) @ spread.T, spread, 0.1, q=q)
    torch.testing.assert_close(pooled.radius, flat.radius, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("q", [1, 2])
def test_only_the_support_can_be_wrong(q):
    weight, code = torch.randn(3, 4, dtype=torch.float64), torch.randn(6, 4, 7, dtype=torch.float64)
    code *= torch.rand(code.shape) < 0.3
    logits, support = code.mean(2) @ weight.T, code != 0
    pooled = label_certificate(logits, weight, 0.1, q=q, positions=7, support=support.sum(2))
    spread = (weight / 7).repeat_interleave(7, dim=1)
    flat = label_certificate(logits, spread, 0.1, q=q, support=support.flatten(1))
    torch.testing.assert_close(pooled.radius, flat.radius)
    for i in range(6):  # the classifier that does not see the rest
        alone = label_certificate(logits[i : i + 1], spread * support[i].flatten(), 0.1, q=q)
        torch.testing.assert_close(alone.radius[0], flat.radius[i])
    assert (flat.radius > label_certificate(logits, spread, 0.1, q=q).radius).all()
    empty = label_certificate(logits, weight, 1e9, q=q, support=torch.zeros(6, 4))
    assert empty.certified.all() and (empty.radius == math.inf).all()


def test_limits():
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    certificate = label_certificate(torch.tensor([[2.0, 1.0, 1.0], [0.0, 3.0, 1.0], [0.0, 3.0, 3.0]]), weight, 0.0)
    # Two classes of one weight differ by their biases only, whatever the code is.
    assert certificate.radius.tolist() == pytest.approx([2**-0.5, 3 / 2**0.5, -math.inf])
    assert certificate.certified.tolist() == [True, True, False]
    wrong = label_certificate(torch.tensor([[2.0, 1.0]]), weight[:2], 0.0, label=torch.tensor([1]))
    assert wrong.margin.item() == -1 and wrong.radius < 0 and not wrong.certified
    alike = label_certificate(torch.tensor([[2.0, 1.0]]), torch.ones(2, 3), 1e9)
    assert alike.radius.item() == math.inf and alike.certified
    assert certificate.noise is None
    assert label_certificate(torch.zeros(0, 2), weight[:2], 0.1).certified.shape == (0,)


def test_largest_noise():
    weight = torch.eye(2)
    logits = torch.tensor([[3.0, 1.0], [1.0, 1.5], [2.0, 2.0], [1e-9, 0.0]])
    radius = label_certificate(logits, weight, 0.0).radius
    for gain in (1e-6, 3.0, 1e6):
        certificate = label_certificate(logits, weight, lambda noise, gain=gain: gain * noise, noise=0.1 / gain)
        torch.testing.assert_close(certificate.noise, radius / gain, rtol=1e-8, atol=0)
        assert certificate.certified.tolist() == (radius > 0.1).tolist()
    # A bound that is there without noise, and ends where its theorem does.
    found = label_certificate(logits, weight, lambda noise: 0.5 + noise if noise <= 0.7 else math.inf).noise
    torch.testing.assert_close(found, torch.tensor([0.7, 0, 0, 0], dtype=torch.float64), rtol=1e-8, atol=0)
    each = label_certificate(logits, weight, [lambda noise, g=g: g * noise for g in (1, 2, 3, 4)]).noise
    torch.testing.assert_close(each, radius / torch.tensor([1, 2, 3, 4]), rtol=1e-8, atol=0)
    assert label_certificate(logits[:1], weight, lambda noise: 0.0).noise.item() == math.inf


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int64])
def test_labels_of_any_integer_type(dtype):
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
    certificate = label_certificate(logits, torch.eye(2), 0.1, label=torch.tensor([1, 1], dtype=dtype))
    assert torch.equal(certificate.label, torch.tensor([1, 1]))
    assert certificate.certified.tolist() == [False, True]


def test_a_certificate_is_about_the_pursuit_that_is_tuned_to_its_noise():
    """With the penalty of less noise the same noise changes the label; with fixed thresholds it cannot."""
    code, weight = torch.eye(4, dtype=torch.float64)[:1], torch.zeros(2, 4, dtype=torch.float64)
    weight[0, 0], weight[1, 1] = 1.0, 100.0
    layers = measure([torch.eye(4)], [code])

    def certify(bound):
        return label_certificate(code @ weight.T, weight, bound, q=1, support=code != 0).noise.item()

    noise = certify(lambda level: basis_pursuit(layers, level).entry_error)
    assert noise == pytest.approx(1 / 7.5)
    y = code + 0.999 * noise * torch.eye(4, dtype=torch.float64)[1]
    assert (soft_threshold(y, 4 * noise) @ weight.T).argmax() == 0
    assert (soft_threshold(y, 4 * 0.01) @ weight.T).argmax() == 1  # orthogonal atoms: this is its basis pursuit
    fixed = certify(lambda level: soft_thresholding(layers, level, [0.04]).entry_error)
    assert fixed == pytest.approx(0.04)  # beyond it the noise passes the threshold
    y = code + 0.999 * fixed * torch.eye(4, dtype=torch.float64)[1]
    assert (soft_threshold(y, 0.04) @ weight.T).argmax() == 0


def circular(weight):
    atoms, channels, kernel = weight.shape
    layer = Dictionary1d(channels, atoms, kernel, padding="same", padding_mode="circular", dtype=weight.dtype)
    layer.weight = weight
    layer.refresh()
    return layer.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def system():
    """Two layers, signals of them, and a classifier of the deepest code."""
    generator = torch.Generator().manual_seed(1)
    dictionaries = [circular(low_coherence_atoms(4, 8, [5], steps=200)), circular(sparse_atoms(3, 4, [8], 4))]
    code = torch.zeros(16, 3 * SIZE, dtype=torch.float64)
    # At the two ends of the circle's diameter: out of each other's stripes.
    places = torch.randint(SIZE // 2, (16, 1), generator=generator)
    places += SIZE * torch.randint(3, (16, 1), generator=generator)
    places = torch.cat([places, places + SIZE // 2], 1)
    code.scatter_(1, places, 1 + torch.rand(16, 2, generator=generator, dtype=torch.float64))
    deepest = code.view(16, 3, SIZE)
    weight = torch.randn(3, 3 * SIZE, generator=generator, dtype=torch.float64)
    return dictionaries, [dictionaries[1].synthesis(deepest, (SIZE,)), deepest], weight


def attacks(x, predict, label, bound, kernel, steps=5):
    """Noise within ``bound``: random ones, and gradient ascent on the margin of the label, from there."""
    label, size = label[:, None], (-1, 1, 1)
    for whole in (True, False):  # in the norm of the whole signal, and of its worst patch

        def within(noise, whole=whole):
            norm = noise.flatten(1).norm(dim=1) if whole else patch_norm(noise, kernel, 2)
            return noise * (bound / norm).view(size)

        for _ in range(10):
            noise = within(torch.randn_like(x))
            yield noise
        for _ in range(steps):
            noise.requires_grad_()
            logits = predict(x + noise)
            others = logits.scatter(1, label, -math.inf).amax(1)
            (gradient,) = torch.autograd.grad((others - logits.gather(1, label)[:, 0]).sum(), noise)
            length = gradient.flatten(1).norm(dim=1).clamp_min(1e-12).view(size)
            noise = within(noise.detach() + 2 * bound.view(size) * gradient / length)
            yield noise


def check(system, depth, theorem, pursue, q, least, times=40):
    """No attack within the certified noise changes a label, and some do that are so many times stronger.

    Args:
        pursue: ``(signal, dictionary, row of the guarantee) -> code`` of one layer.
    """
    # A depth of 1 is the last dictionary alone, whose signal is the code above it.
    dictionaries, codes, weight = system[0][-depth:], system[1][-depth:], system[2]
    samples = len(codes[-1])
    logits = codes[-1].flatten(1) @ weight.T
    layers = [measure(dictionaries, [code[i : i + 1] for code in codes]) for i in range(samples)]

    def bound(layer):
        return lambda noise: getattr(theorem(layer, noise), "error" if q == 2 else "entry_error")

    support = codes[-1].flatten(1) != 0
    certificate = label_certificate(logits, weight, [bound(layer) for layer in layers], q=q, support=support)
    certified = certificate.noise > 0
    assert certified.sum() >= least
    x = dictionaries[0].synthesis(codes[0], (SIZE,))[certified]
    label, noise = certificate.label[certified], certificate.noise[certified] * (1 - 1e-6)
    chosen = [layer for layer, keep in zip(layers, certified.tolist(), strict=True) if keep]
    for layer, level in zip(chosen, noise.tolist(), strict=True):
        assert theorem(layer, level).holds
    rows = [theorem(layer, level).layers for layer, level in zip(chosen, noise.tolist(), strict=True)]

    def predict(signal):
        for i, dictionary in enumerate(dictionaries):
            setting = {
                key: torch.tensor([row[i][key] for row in rows], dtype=torch.float64)[:, None, None]
                for key in ("threshold", "penalty")
                if key in rows[0][i]
            }
            signal = pursue(signal, dictionary, setting)
        return signal.flatten(1) @ weight.T

    for e in attacks(x, predict, label, noise, dictionaries[0].geometry.kernel_size):
        with torch.no_grad():
            assert (predict(x + e).argmax(1) == label).all()
    changed = torch.zeros(len(x), dtype=torch.bool)
    for e in attacks(x, predict, label, times * noise, dictionaries[0].geometry.kernel_size):
        with torch.no_grad():
            changed |= predict(x + e).argmax(1) != label
    assert changed.any()  # the attack is one


@pytest.mark.parametrize("q", [1, 2])
@pytest.mark.parametrize("depth", [1, 2])
def test_attacks_on_basis_pursuit(system, depth, q):
    check(system, depth, basis_pursuit, lambda x, d, row: fista(x, d, row["penalty"], steps=25), q, 15, 40**depth)


@pytest.mark.parametrize("q", [1, 2])
def test_attacks_on_thresholding(system, q):
    def hard(x, dictionary, row):
        return hard_threshold(dictionary.analysis(x), row["threshold"])

    def soft(x, dictionary, row):
        return soft_threshold(dictionary.analysis(x), row["threshold"])

    check(system, 1, hard_thresholding, hard, q, least=10)
    check(system, 1, lambda layers, noise: soft_thresholding(layers, noise, position=1e-6), soft, q, least=1)
    check(system, 2, hard_thresholding, hard, q, least=10)


def test_global_stability_certifies_labels_of_all_codes_that_explain_the_signal(system):
    """A code of another label and the same sparsity cannot explain a signal with less noise than certified."""
    (_, second), (_, deepest), weight = system
    ratios = []
    for code in deepest:
        logits, support = code.flatten() @ weight.T, code.flatten() != 0
        label, runner_up = logits.topk(2).indices
        step = (weight[runner_up] - weight[label]) * support
        step *= 1.001 * (logits[label] - logits[runner_up]) / step.square().sum()
        both = torch.stack([code, code + step.view_as(code)])
        assert (both[1].flatten() @ weight.T).argmax() != label
        # Y in the middle of the two signals: both are as far from it.
        noise = (second.synthesis(both[:1]) - second.synthesis(both[1:])).norm().item() / 2
        layers = measure([second], [both])
        certificate = label_certificate(
            logits[None], weight, lambda e, layers=layers: global_stability(layers, e).error, noise=noise
        )
        assert not certificate.certified
        ratios.append(certificate.noise.item() / noise)
    assert min(ratios) > 0 and 0.05 < max(ratios) < 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(2, 4)}, r"got \(2, 4\) and \(3, 5\)"),
        ({"logits": torch.zeros(3)}, "logits"),
        ({"weight": torch.zeros(1, 5), "logits": torch.zeros(2, 1)}, "at least 2 classes"),
        ({"logits": torch.full((2, 3), math.nan)}, "finite"),
        ({"error": -1.0}, "error must be a number >= 0"),
        ({"error": torch.ones(3)}, "2 of them"),
        ({"error": math.nan}, "error"),
        ({"error": [lambda noise: noise]}, "one for each of 2 samples, got 1"),
        ({"q": 3}, "q must be 1 or 2, got 3"),
        ({"positions": 0}, "positions"),
        ({"support": torch.ones(2, 3)}, r"support must be \(2, 5\) counts from 0 to 1"),
        ({"support": 2 * torch.ones(2, 5)}, "support"),
        ({"label": torch.zeros(2)}, "label must be 2 integers"),
        ({"label": torch.tensor([0, 3])}, "label must be 0 to 2"),
        ({"label": torch.tensor([True, False])}, "label must be 2 integers, got torch.bool"),
        ({"error": lambda noise: noise, "noise": -1.0}, "noise must be a finite number >= 0, got -1.0"),
        ({"error": lambda noise: noise, "noise": math.nan}, "noise must be a finite number >= 0, got nan"),
        ({"error": 0.1, "noise": 5.0}, "noise needs an error that is a function of it, got noise=5.0"),
        ({"error": lambda noise: -1.0}, "error must return a number >= 0 or inf, got -1.0 for the noise 0.0"),
        ({"error": lambda noise: math.nan}, "got nan for the noise 0.0"),
        ({"error": lambda noise: 0.1 - noise, "logits": torch.eye(3)[:2]}, "got -0.9 for the noise 1.0"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    arguments = {"logits": torch.zeros(2, 3), "weight": torch.zeros(3, 5), "error": 0.1, **change}
    with pytest.raises(ValueError, match=message):
        label_certificate(**arguments)
