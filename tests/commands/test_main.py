import os
import subprocess
import sys

import pytest

from csc_nets.commands import main
from csc_nets.commands.main import COMMANDS


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)


def test_a_wrong_command_is_one_error(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["trian"])
    assert stop.value.code == 2 and "invalid choice: 'trian'" in capsys.readouterr().err


def test_torch_is_not_loaded_before_a_command_is_known():
    program = "import sys, csc_nets.commands; print(*({'torch', 'hydra', 'lightning'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "\n"


@pytest.fixture
def asked(monkeypatch, capsys):
    def ask(line):
        monkeypatch.setenv("COMP_LINE", line)
        monkeypatch.setattr(sys, "argv", list(sys.argv))
        main(["-sc", "query=bash"])
        return capsys.readouterr().out.split()

    return ask


def test_completion_of_commands(asked):
    assert asked("csc-nets ") == list(COMMANDS) and asked("csc-nets s") == ["sweep-report"]
    assert asked("csc-nets models sd") == []


def test_completion_of_options(asked):
    assert asked("csc-nets train logge") == ["logger.", "logger="]
    assert "experiment=digits_autoencoder" in asked("csc-nets train seed=1 experiment=digits")
    assert asked("csc-nets train model.la") == ["model.lam="]
    assert "which=" in asked("csc-nets evaluate w")


def test_what_a_shell_evaluates(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    main(["completion", "bash"])
    assert capsys.readouterr().out.rstrip().endswith("-F hydra_bash_completion csc-nets")
    assert os.environ.get("COMP_LINE") is None
