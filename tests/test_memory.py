"""The memory of freed tensors is used again without a page fault."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from csc_nets.memory import reuse_memory
if sys.argv[1] == "reuse" and not reuse_memory():
    sys.exit(77)
def work():
    kept = [torch.ones(2_000_000) for _ in range(8)]
for _ in range(3):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("the C library has no mallopt")
    return int(done.stdout)


def test_no_page_faults_after_the_first_steps():
    assert faults("reuse") < faults("default") / 10
