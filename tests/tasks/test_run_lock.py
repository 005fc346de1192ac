import os
import subprocess
import sys

import pytest

from csc_nets.tasks.run_lock import run_lock

HOLD = """
import sys
from pathlib import Path
from csc_nets.tasks.run_lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_the_message_names_the_holder_and_the_lock_goes_with_it(tmp_path):
    process = holder(tmp_path)
    with pytest.raises(BlockingIOError, match=rf"{tmp_path} is in use by process {process.pid} on \S+, since \d{{4}}-"):
        run_lock(tmp_path).__enter__()
    process.kill()
    process.communicate()
    with run_lock(tmp_path):
        assert str(os.getpid()) in (tmp_path / "lock").read_text()
    assert not (tmp_path / "lock").exists()


def test_a_process_does_not_lock_twice(tmp_path):
    with run_lock(tmp_path):
        with pytest.raises(BlockingIOError, match=f"process {os.getpid()}"), run_lock(tmp_path):
            pass
        assert (tmp_path / "lock").exists()
    with run_lock(tmp_path):
        pass


def test_a_worker_does_not_keep_the_lock_of_its_dead_trainer(tmp_path):
    program = HOLD.replace("sys.stdin.read()", "import os, time\n    os.fork() or time.sleep(600)")
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    process.kill()
    process.wait()
    with run_lock(tmp_path):
        pass
