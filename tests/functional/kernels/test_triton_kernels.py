"""Triton kernels without an accelerator: their numbers from Triton's interpreter, and that they compile for one."""

import itertools
import os
import subprocess
import sys

import pytest
import torch

from csc_nets.functional.kernels import shrink

pytestmark = pytest.mark.skipif(not shrink.has_triton(), reason="no Triton on this machine")

FORMATS = {
    (3, 5, 4, 4): torch.channels_last,
    (3, 5, 7, 9): torch.contiguous_format,
    (2, 1, 4, 4): torch.channels_last,
    (2, 3, 2, 3, 2): torch.channels_last_3d,
    (6, 8): torch.contiguous_format,
    (40, 33, 11): torch.contiguous_format,  # several blocks, the last one not full
}


def close(mine, theirs, dtype):
    # The interpreter cuts bfloat16 off, where devices and torch round it.
    tolerance = {"rtol": 2**-6, "atol": 2**-5} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(mine, theirs, equal_nan=True, **tolerance)
    assert mine.stride() == theirs.stride()


def compare():
    """Both kernels against the operators in torch's words; run where TRITON_INTERPRET is set."""
    from csc_nets.functional.kernels import triton_kernels

    torch.manual_seed(0)
    for shape, dtype in itertools.product(FORMATS, (torch.float32, torch.bfloat16)):
        samples, atoms = shape[:2]

        def code(shape=shape, dtype=dtype):
            return torch.randn(shape).to(dtype).contiguous(memory_format=FORMATS[shape])

        for size, (extrapolate, moved, kept, nonneg) in zip(
            itertools.cycle([(1, 1), (1, atoms), (samples, 1), (samples, atoms)]),
            itertools.product([False, True], repeat=4),
            strict=False,
        ):
            v, threshold = code(), torch.rand(size)
            v[0, 0] = float("nan")
            y, before = code().contiguous() if moved else None, code() if extrapolate else None
            given = (v, threshold, y, before, torch.tensor(0.9) if kept and moved else None, 0.3, nonneg)
            expected = torch.ops.csc_nets.shrink(*given)
            for mine, theirs in zip(triton_kernels.shrink(*given), expected, strict=True):
                close(mine, theirs, dtype)
            z = expected[0].nan_to_num()
            for gradients in ((code(), None), (None, code()), (code(), code())):
                mine, theirs = triton_kernels.shrink_gradients, torch.ops.csc_nets.shrink_gradients
                for a, b in zip(mine(*gradients, z, 0.3), theirs(*gradients, z, 0.3), strict=True):
                    close(a, b, dtype)
    empty = torch.zeros(0, 4, 3, 3)
    assert triton_kernels.shrink(empty, torch.zeros(1, 1), empty, empty, None, 0.1, True)[1].shape == empty.shape
    assert triton_kernels.shrink_gradients(empty, None, empty, 0.1)[0].shape == empty.shape


def test_numbers():
    environment = os.environ | {"TRITON_INTERPRET": "1"}  # has to stand before the kernels are defined
    subprocess.run([sys.executable, __file__], check=True, env=environment)


@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_kernels_compile_for_hopper_with_wide_accesses(kind):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from csc_nets.functional.kernels import triton_kernels as kernels

    constants = {"ATOMS": 64, "PER_SAMPLE": False, "PER_ATOM": True, "HAS_Y": True, "HAS_SHRINKAGE": False}
    constants |= {"HAS_BEFORE": True, "NONNEG": True, "BLOCK": kernels.BLOCK, "INDEX": kernels.tl.int32}
    cases = [
        (kernels.shrink_kernel, {"threshold", "shrinkage"}, constants, 3, 2),
        (kernels.gradients_kernel, set(), constants | {"HAS_Z": True, "HAS_AHEAD": True}, 3, 2),
    ]
    for kernel, single, constants, reads, writes in cases:
        signature, aligned = {}, {}
        for k, name in enumerate(kernel.arg_names):
            scalar = name in ("count", "size", "inner", "of_sample", "of_atom")
            signature[name] = (
                "i32" if scalar else "fp32" if name == "inertia" else "*fp32" if name in single else f"*{kind}"
            )
            if name in constants:
                signature[name] = "constexpr"
            elif signature[name].startswith("*") or name == "count":
                aligned[(k,)] = [["tt.divisibility", 16]]
        constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
        try:
            source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
        except TypeError as error:
            pytest.skip(f"this Triton describes kernels in another way: {error}")
        compiled = compile(source, target=GPUTarget("cuda", 90, 32))
        assert compiled.asm["cubin"]
        code = compiled.asm["ptx"]
        # 8 entries of each code for a thread, 16 bytes at once.
        times = 2 if kind == "fp32" else 1
        assert code.count("ld.global.v4.b32") == reads * times
        assert code.count("st.global.v4.b32") == writes * times


if __name__ == "__main__":
    compare()
