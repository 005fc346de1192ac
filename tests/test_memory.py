"""The memory of freed tensors is used again without a page fault."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from csc_nets.memory import reuse_memory
if sys.argv[1] == "reuse" and not reuse_memory():
    sys.exit(77)
def work():
    kept = [torch.ones(size) for size in (2_000_000,) * 8 + (16_000_000,) * 2]  # below and above malloc's 32 MiB
for _ in range(3):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    # A fixed threshold in place of one that adapts: each of these blocks comes from the system and goes back to it.
    environment = {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"}
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, env=environment)
    if done.returncode == 77:
        pytest.skip("the C library has no mallopt")
    return int(done.stdout)


def test_no_page_faults_after_the_first_steps():
    assert faults("default") > 1000
    assert faults("reuse") < 100
