import json
import struct
from importlib.util import find_spec

import pytest
import torch

from csc_nets.models import create_model
from csc_nets.reading import read_safetensors, read_torch_file


def write(file, header, content=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + content)
    return file


def entry(first=0, last=16, dtype="F32", shape=(4,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [first, last]}


def test_tensors_come_back(tmp_path):
    values = torch.tensor([1.0, -2.0, 3.5, 0.0])
    content = bytes(range(2)) + values.numpy().tobytes()
    header = {
        "__metadata__": {"format": "pt"},
        "b": entry(2, 18, shape=(2, 2)),
        "a": entry(0, 2, "U8", (2, 1)),
        "none": entry(18, 18, "F16", (0, 5)),
    }
    read = read_safetensors(write(tmp_path / "w.safetensors", header, content))
    assert torch.equal(read["b"], values.view(2, 2)) and read["b"].dtype == torch.float32
    assert torch.equal(read["a"], torch.tensor([[0], [1]], dtype=torch.uint8))
    assert read["none"].shape == (0, 5)


@pytest.mark.skipif(find_spec("safetensors") is None, reason="safetensors is not installed")
def test_files_of_the_library_are_read(tmp_path):
    from safetensors.torch import save_file

    state = {k: v.contiguous() for k, v in create_model("csc_small", widths=[4, 6]).state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    read = create_model("csc_small", widths=[4, 6], checkpoint_path=tmp_path / "w.safetensors").state_dict()
    assert all(torch.equal(read[key], value) for key, value in state.items())


@pytest.mark.parametrize(
    ("header", "length", "reason"),
    [
        (b"", 1 << 62, "its header would have 4611686018427387904 bytes"),
        (b"{", 2, "its header would have 2 bytes"),
        (b"[]", None, "its header is damaged"),
        (b"{" * 10**5, None, "its header is damaged"),
        (b"\xff", None, "its header is damaged"),
        ({"a": entry(), "b": entry()}, None, "overlap"),
        ({"a": entry(8, 24)}, None, "overlap, leave gaps"),
        ({"a": entry(0, 8, shape=(2,))}, None, "end elsewhere than the file"),
        ({"a": entry(0, 1 << 42, shape=(1 << 40,))}, None, "end elsewhere than the file"),
        ({"a": entry(0, 16, "F64")}, None, "cannot have 16 bytes"),
        ({"a": entry(0, 16, "F128")}, None, "of the type 'F128'"),
        ({"a": entry(0, 16, ["F32"])}, None, "its header is damaged"),
        ({"a": entry(0, 16, shape=(-2, -2))}, None, "sizes that are none"),
        ({"a": entry(-16, 0)}, None, "sizes that are none"),
        ({"a": entry(0, 16, shape=(4.0,))}, None, "sizes that are none"),
        ({"a": entry(0, 16, shape=(True, 4))}, None, "sizes that are none"),
        ({"a": {"dtype": "F32"}}, None, "its header is damaged"),
    ],
)
def test_headers_that_are_not_those_of_the_content(tmp_path, header, length, reason):
    file = write(tmp_path / "w.safetensors", header, b"" if isinstance(header, bytes) else bytes(16), length)
    with pytest.raises(ValueError, match=f"w.safetensors is not a file of weights: .*{reason}") as error:
        create_model("csc_small", checkpoint_path=file)
    assert "\n" not in str(error.value)


def test_a_file_of_a_few_bytes(tmp_path):
    for count in range(9):
        (tmp_path / "w.safetensors").write_bytes(bytes(count))
        with pytest.raises(ValueError, match="its header"):
            read_safetensors(tmp_path / "w.safetensors")


def test_plain_values_of_all_kinds_come_back(tmp_path):
    held = {"a": [1, 2.5, None, True, "text", b"bytes", (1, 2)], "size": torch.Size([2, 3]), "kind": torch.float16}
    held |= {"device": torch.device("cpu"), 3: {1, 2}, "empty": torch.zeros(0, 3)}
    torch.save(held, tmp_path / "x.pt")
    read = read_torch_file(tmp_path / "x.pt")
    assert torch.equal(read.pop("empty"), held.pop("empty")) and read == held


def test_the_memory_of_a_tensor_is_its_own(tmp_path):
    """The file may be written anew while its tensors are in use."""
    last = torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last)
    torch.save({"a": torch.ones(100_000), "b": last}, tmp_path / "x.pt")
    read = read_torch_file(tmp_path / "x.pt")
    with (tmp_path / "x.pt").open("r+b") as file:
        file.truncate(10)
    assert read["a"].sum() == 100_000 and read["b"].is_contiguous(memory_format=torch.channels_last)
