"""A user's own files: those of docs/extending.md run as they stand there, and what is refused."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

import csc_nets.cli as cli
from csc_nets.checkpoint import load, read_checkpoint
from csc_nets.plugins import import_installed, import_plugins, installed_plugins

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
FILES = {
    name: (int(lines), text)
    for name, lines, text in re.findall(r"`(\w+\.py)`, (\d+) lines:\n\n```python\n(.*?)```", PAGE, re.S)
}
COMMANDS = re.findall(r"^python ((?:train|evaluate)\.py plugins=.*)$", PAGE, re.M)
QUICK = ["callbacks.progress_bar=false", "pictures=false"]


def run(*command, cwd, **environment):
    """What a program prints."""
    paths = os.pathsep.join(filter(None, [str(ROOT), environment.pop("PYTHONPATH", "")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment, "PYTHONPATH": paths}
    script, *arguments = command
    start = [script] if script == "-c" else [str(ROOT / script)]
    done = subprocess.run(
        [sys.executable, *start, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files of the page."""
    folder = tmp_path_factory.mktemp("own")
    for name, (_, text) in FILES.items():
        (folder / name).write_text(text)
    return folder


def documented(folder, file, epochs=1):
    """The folder of a run that the page's first commands about a plugin make and evaluate, with quick settings."""
    training, *_ = (c.split() for c in COMMANDS if c.startswith(f"train.py plugins=[{file}]"))
    small = [] if "model=plain" in training else ["model.widths=[4,8]"]
    run(*training, *QUICK, *small, f"trainer.max_epochs={epochs}", f"run_dir={file}-run", cwd=folder)
    (evaluation,) = (c.split() for c in COMMANDS if c.startswith(f"evaluate.py plugins=[{file}]"))
    run(*(f"run={file}-run" if choice.startswith("run=") else choice for choice in evaluation), cwd=folder)
    return folder / f"{file}-run"


@pytest.fixture(scope="module")
def my_run(folder):
    return documented(folder, "my_net.py")


def config(*overrides, name="evaluate"):
    with initialize_config_dir(str(ROOT / "configs")):
        return compose(name, overrides=list(overrides))


def test_the_page_says_how_long_its_files_are():
    assert {"my_net.py", "stripes.py", "margin.py", "confidence.py"} <= set(FILES)
    for name, (lines, text) in FILES.items():
        assert len(text.splitlines()) == lines, name


def test_a_model_is_trained_and_evaluated(my_run, folder):
    assert "test/acc" in json.loads((my_run / "metrics.json").read_text())
    config = yaml.safe_load((my_run / "config.yaml").read_text())
    assert config["model"] == {"name": "my_net", "width": 32}
    assert config["plugins"] == [str(folder / "my_net.py")]


def test_a_data_set_is_trained_on(folder):
    run = documented(folder, "stripes.py")
    assert json.loads((run / "metrics.json").read_text())["test/acc"] >= 0.4
    assert load(run).num_classes == 2  # its network is of the zoo


def test_a_task_trains(folder):
    run = documented(folder, "margin.py", epochs=5)
    assert json.loads((run / "metrics.json").read_text())["test/acc"] >= 0.3


PARTS = {
    "heavy_ball.py": ("pursuit", "heavy_ball"),
    "my_lista.py": ("pursuit", "my_lista"),
    "mcp.py": ("penalty", "mcp"),
    "checkpointed.py": ("gradient", "checkpointed"),
}


@pytest.mark.parametrize("file", PARTS)
def test_a_part_of_the_layers_trains(folder, file):
    """tests/newcomers looks at the numbers."""
    folder_of_run, (role, name) = documented(folder, file, epochs=3), PARTS[file]
    assert json.loads((folder_of_run / "metrics.json").read_text())["test/acc"] >= 0.2
    assert yaml.safe_load((folder_of_run / "config.yaml").read_text())["model"][role] == name
    # In a process of its own: in this one another test may have imported the part.
    code = "import sys, csc_nets; csc_nets.load(sys.argv[1])"
    with pytest.raises(AssertionError, match=rf"{role} must be one of .*import_plugins"):
        run("-c", code, str(folder_of_run), cwd=folder)


def test_a_part_with_arguments(folder):
    """As a shell reads the command: quotation marks keep braces and commas."""
    (command,) = (shlex.split(c) for c in COMMANDS if "{" in c)
    quick = [*QUICK, "trainer.max_epochs=1", "model.widths=[4,8]", "debug=fast"]
    run(*command, *quick, "run_dir=arguments-run", cwd=folder)
    saved = read_checkpoint(folder / "arguments-run" / "checkpoints" / "best.ckpt")["hyper_parameters"]["model_args"]
    assert saved["pursuit"] == {"name": "heavy_ball", "beta": 0.8} and saved["steps"] == 4
    run("evaluate.py", "run=arguments-run", "plugins=heavy_ball.py", "steps=6", cwd=folder)


def test_a_report_is_printed_and_written(my_run, folder):
    (command,) = (c for c in COMMANDS if "report=confidence" in c)
    command = re.sub(r"run=\S+", f"run={my_run}", command).replace("[confidence.py]", "[my_net.py,confidence.py]")
    assert "least" in run(*command.split(), cwd=folder)
    rows = json.loads((my_run / "reports" / "confidence.json").read_text())
    assert [row["name"] for row in rows] == ["mean", "least"] and 0.1 <= rows[1]["value"] <= rows[0]["value"] <= 1


def test_a_run_goes_on_where_the_plugin_is_repeated(my_run, folder):
    assert "test accuracy" in run("train.py", f"resume={my_run}", "plugins=my_net.py", cwd=folder)


def test_a_sweep_with_a_file_and_an_installed_package(folder, tmp_path):
    """Own configuration files, too; folders of jobs are not named after plugins, because a path is no name."""
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "my_net.yaml").write_text("name: my_net\nwidth: 4\n")
    installed(tmp_path, "offered_stripes", FILES["stripes.py"][1])
    chosen = ["--config-dir", "mine", f"plugins=[{folder / 'my_net.py'}]", "model=my_net", "data=plain"]
    jobs = ["data.name=stripes", "model.width=4,8", "run_dir=sweep", "debug=fast"]
    run("train.py", "-m", *chosen, *jobs, *QUICK[1:], cwd=tmp_path, PYTHONPATH=str(tmp_path))
    left = sorted(file.parents[1] for file in tmp_path.glob("sweep/*/checkpoints/best.ckpt"))
    assert len(left) == 2 and all("plugins" not in path.name and "width-" in path.name for path in left)
    parameters = read_checkpoint(left[1] / "checkpoints" / "best.ckpt")["hyper_parameters"]
    assert parameters["plugins"] == [str(folder / "my_net.py"), "offered_stripes"]
    assert parameters["model_args"]["width"] == 8


def installed(site, module, text):
    """Puts a package with an entry point into the folder ``site``."""
    (site / f"{module}.py").write_text(text)
    facts = site / f"{module}-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[csc_nets.plugins]\nmine = {module}\n")


def test_loading_says_which_plugin_is_missing_and_imports_nothing(my_run, folder):
    with pytest.raises(ValueError, match="holds the network 'my_net' of a run that was trained with") as error:
        load(my_run)
    assert f"import_plugins(['{folder / 'my_net.py'}'])" in str(error.value) and "my_net" not in sys.modules


def test_a_run_folder_cannot_have_code_imported(my_run, tmp_path):
    copy, trap = shutil.copytree(my_run, tmp_path / "run"), tmp_path / "trap.py"
    trap.write_text(f"open({str(tmp_path / 'executed')!r}, 'w').close()")
    file = copy / "config.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "plugins": [str(trap)]}))
    needed = re.escape(f"this run was trained with plugins=[{trap}]; add plugins=[{trap}] to the command")
    with pytest.raises(ValueError, match=needed):
        cli.evaluate(config(f"run={copy}"))
    with pytest.raises(ValueError, match=needed):
        cli.train(config(f"resume={copy}", name="train"))
    assert not (tmp_path / "executed").exists()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty folder to import from; nothing stays imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_a_file_is_imported_once_as_the_module_of_its_stem(home):
    (home / "counted_plugin.py").write_text("import neighbour_of_plugin\nneighbour_of_plugin.times.append(1)\n")
    (home / "neighbour_of_plugin.py").write_text("times = []\n")
    absolute = str(home / "counted_plugin.py")
    assert import_plugins("counted_plugin.py") == import_plugins([absolute, "./counted_plugin.py"])[:1] == [absolute]
    assert sys.modules["neighbour_of_plugin"].times == [1]
    assert sys.modules["counted_plugin"].__file__ == absolute


def test_installed_packages_are_found(home):
    sys.path.insert(0, str(home))
    installed(home, "offered_plugin", "")
    assert "offered_plugin" in installed_plugins()
    import_installed()
    assert "offered_plugin" in sys.modules


BAD = {
    "absent.py": (FileNotFoundError, "plugins: there is no file .*absent.py"),
    "absent_module": (ValueError, "plugins: absent_module fails on import: ModuleNotFoundError: No module named"),
    "broken_plugin.py": (ValueError, "broken_plugin.py fails on import in line 2: ZeroDivisionError: division by zero"),
    "unreadable_plugin.py": (ValueError, "fails on import: SyntaxError: .*line 1"),
    "stopping_plugin.py": (ValueError, "fails on import in line 1: SystemExit: 3"),
    "json.py": (ValueError, "json.py has the name of another module .*rename the file"),
    "dotted.plugin.py": (ValueError, "must have no dot before .py"),
    "taking_plugin.py": (ValueError, "register_report: 'theory' is taken by csc_nets.evaluation.reports; give"),
}
TEXTS = {
    "broken_plugin.py": "x = 0\n1 / x\n",
    "unreadable_plugin.py": "x = (\n",
    "stopping_plugin.py": "raise SystemExit(3)\n",
    "json.py": "",
    "dotted.plugin.py": "",
    "taking_plugin.py": "from csc_nets.evaluation import register_report\n"
    "@register_report\ndef theory(given):\n    return '', []\n",
}


@pytest.mark.parametrize("name", BAD)
def test_a_plugin_that_cannot_be_imported_is_named_with_the_reason(home, name):
    if name in TEXTS:
        (home / name).write_text(TEXTS[name])
    kind, message = BAD[name]
    with pytest.raises(kind, match=message) as error:
        import_plugins([name])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [3, [3], "", None, {"a": 1}])
def test_only_names_are_plugins(value):
    with pytest.raises(ValueError, match=r"plugins must be a list of files .* got "):
        import_plugins(value)


def test_an_unknown_plugin_is_one_line_on_the_command_line(home, monkeypatch, capsys):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["train.py", "plugins=[absent.py]"])
    with pytest.raises(SystemExit):
        cli.run(cli.train, ROOT / "configs", "train")
    assert capsys.readouterr().err == f"error: plugins: there is no file {home / 'absent.py'}\n"
    assert not (home / "runs").exists()
