import pytest
import torch

from csc_nets.layers import CodeStream, CSC1d, CSC2d


def streamed(layer, x, sizes):
    stream, parts, at = CodeStream(layer), [], 0
    for size in sizes:
        parts.append(stream.push(x[:, :, at : at + size]))
        at += size
    parts.append(stream.push(x[:, :, at:]))
    return torch.cat([*parts, stream.finish()], 2)


@pytest.mark.parametrize("padding", [0, 3, 8])
@pytest.mark.parametrize("stride, dilation", [(1, 1), (2, 1), (3, 2), (4, 1)])
@pytest.mark.parametrize("steps", [1, 3])
def test_chunks_of_any_size_give_the_code_of_the_whole(padding, stride, dilation, steps):
    torch.manual_seed(0)
    layer = CSC1d(2, 5, 9, stride, padding, dilation, steps=steps, lam=0.2).eval()
    x = torch.randn(2, 2, 301)
    for sizes in ([1] * 60 + [100], [7] * 40, [150, 150], []):
        torch.testing.assert_close(streamed(layer, x, sizes), layer(x), rtol=1e-4, atol=1e-5)


def test_an_electrocardiogram():
    pywt = pytest.importorskip("pywt", reason="PyWavelets")
    torch.manual_seed(0)
    x = torch.as_tensor(pywt.data.ecg(), dtype=torch.float32)[None, None]
    x = (x - x.mean()) / x.std()
    layer = CSC1d(1, 16, 33, 4, 16, lam=0.3, steps=6).eval()
    whole = layer(x)
    torch.testing.assert_close(streamed(layer, x, [50] * 20), whole, rtol=1e-4, atol=1e-5)
    assert (whole != 0).any()


def test_the_delay_is_the_last_sample_that_matters():
    torch.manual_seed(0)
    layer = CSC1d(1, 4, 9, 2, 4, steps=3, lam=0.01).eval().double()
    delay, position = CodeStream(layer).delay, 100
    x = torch.randn(1, 1, 600, dtype=torch.float64)
    first = position * 2 - 4
    for offset, changes in ((delay, False), (delay - 1, True)):
        other = x.clone()
        other[:, :, first + offset] += 100.0
        assert bool((layer(other)[:, :, position] != layer(x)[:, :, position]).any()) == changes
    stream = CodeStream(layer)
    known = sum(stream.push(x[:, :, i : i + 1]).shape[2] for i in range(first + delay))
    assert known == position + 1


def test_memory_does_not_grow():
    layer = CSC1d(1, 4, 9, 2, 4, steps=3).eval()
    stream, sizes = CodeStream(layer), []
    for _ in range(50):
        stream.push(torch.randn(1, 1, 20))
        sizes.append(stream._kept.shape[2])
    assert max(sizes[10:]) == max(sizes[30:]) < 150


def test_what_has_no_stream_is_refused():
    with pytest.raises(ValueError, match="layer must be a CSC1d, got CSC2d"):
        CodeStream(CSC2d(1, 4, 3))
    with pytest.raises(ValueError, match="must be in evaluation mode"):
        CodeStream(CSC1d(1, 4, 3))
    with pytest.raises(ValueError, match="padding_mode must be 'zeros'"):
        CodeStream(CSC1d(1, 4, 3, padding=1, padding_mode="reflect").eval())
    with pytest.raises(ValueError, match="tol must be None"):
        CodeStream(CSC1d(1, 4, 3, tol=1e-2).eval())
    stream = CodeStream(CSC1d(1, 4, 3).eval())
    with pytest.raises(ValueError, match="finish needs at least one chunk"):
        stream.finish()
    stream.push(torch.randn(2, 1, 5))
    with pytest.raises(ValueError, match=r"expected a chunk \(2, 1, L\) of torch.float32, got \(1, 1, 5\)"):
        stream.push(torch.randn(1, 1, 5))


@pytest.mark.parametrize("chunk", [None, [1.0], torch.zeros(1, 3, 2), torch.zeros(1, 2), torch.zeros(1, 2, 2).double()])
def test_a_chunk_of_another_kind_is_refused(chunk):
    stream = CodeStream(CSC1d(2, 4, 5).eval())
    stream.push(torch.zeros(1, 2, 1))
    with pytest.raises(ValueError, match=r"expected a chunk \(1, 2, L\) of torch.float32, got"):
        stream.push(chunk)
    with pytest.raises(ValueError, match=r"expected a chunk \(N, 2, L\) of torch.float32, got \(1, 3, 1\)"):
        CodeStream(CSC1d(2, 4, 5).eval()).push(torch.zeros(1, 3, 1))
