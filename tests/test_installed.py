"""The wheel in an environment of its own, in another folder: what a user has who did not clone."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TINY = ["model.widths=[4,8]", "model.steps=2", "callbacks.progress_bar=false", "pictures=false", "debug=fast"]

# Not by find_spec("pip"), after which ``import setuptools`` fails in this process before Python 3.12.
pytestmark = pytest.mark.skipif(
    not {"setuptools", "pip"} <= {found.name for found in distributions()},
    reason="builds a wheel with setuptools and pip",
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A new environment with the wheel, which sees the libraries of this one."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    source.mkdir()
    for name in ("csc_nets", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run([*pip, *build], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "env")}))
    (own / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = ["--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([*pip, *install], check=True, capture_output=True)
    return folder / "env" / "bin"


@pytest.fixture
def run(environment, tmp_path):
    def call(command, *arguments, **more):
        variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1", **more}
        program = [str(environment / command), *arguments]
        done = subprocess.run(program, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


def test_the_package_lies_in_the_environment_with_its_configurations(run, environment):
    place = run("python", "-c", "import csc_nets; print(csc_nets.__file__)").strip()
    assert place.startswith(str(environment.parent))
    inside = sorted(
        str(file.relative_to(Path(place).parent / "configs")) for file in Path(place).parent.glob("configs/**/*.yaml")
    )
    assert inside == sorted(str(file.relative_to(ROOT / "configs")) for file in (ROOT / "configs").rglob("*.yaml"))


def test_train_and_evaluate(run, tmp_path):
    own = tmp_path / "mine" / "experiment"
    own.mkdir(parents=True)
    (own / "small.yaml").write_text("# @package _global_\nname: small\nmodel:\n  lam: 0.25\n")
    run("csc-nets", "train", "--config-dir", "mine", "experiment=small", *TINY, "run_dir=run")
    assert "lam: 0.25" in (tmp_path / "run" / "config.yaml").read_text()
    trained = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert f"{trained['test/acc']:.2%}" in run("csc-nets", "evaluate", "run=run", "trainer.limit_test_batches=2")


def test_the_module_and_sweeps(run, tmp_path):
    run("python", "-m", "csc_nets", "train", "-m", *TINY, "seed=0,1", "run_dir=sweep")
    assert (tmp_path / "sweep" / "seed-1" / "metrics.json").is_file()
    assert "± " in run("csc-nets", "sweep-report", "sweep")


def test_models_doctor_and_completion(run):
    assert run("csc-nets", "models", "resnet18").splitlines()[1].startswith("resnet18  11,173,962  555.42 M")
    assert "configurations" in run("csc-nets", "doctor")
    assert run("csc-nets", "-sc", "query=bash", COMP_LINE="csc-nets train trainer=d").split() == [
        "trainer=ddp",
        "trainer=default",
    ]
