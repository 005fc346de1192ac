"""Hydra's launchers for the cores of a machine and for a cluster run our jobs too."""

import pytest
from hydra import compose, initialize_config_dir
from program import ROOT, TINY, end, numbers, start

JOBS = [*TINY, "debug=fast", "seed=0,1", "run_dir=sweep"]


def test_joblib(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="hydra-joblib-launcher is not installed")
    command = ["-m", *JOBS, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    output, _ = end(start("train.py", *command, cwd=tmp_path))
    assert numbers(tmp_path / "sweep" / "seed-0")["collapsed"] == 0
    assert output.splitlines()[-2].split()[0] == "2" and output.splitlines()[-1] == f"sweep  {tmp_path / 'sweep'}"


def test_submitit_sends_a_job_to_another_process(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="hydra-submitit-launcher is not installed")
    command = ["-m", *JOBS[:-2], "seed=0", "run_dir=sweep", "hydra/launcher=submitit_local"]
    end(start("train.py", *command, cwd=tmp_path))
    assert numbers(tmp_path / "sweep" / "job")["collapsed"] == 0


def test_a_job_for_slurm(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="hydra-submitit-launcher is not installed")
    from submitit.slurm.slurm import _make_sbatch_string

    options = ["partition=gpu", "gpus_per_node=1", "timeout_min=600", "cpus_per_task=8"]
    overrides = ["hydra/launcher=submitit_slurm", *(f"hydra.launcher.{option}" for option in options)]
    with initialize_config_dir(str(ROOT / "configs")):
        launcher = compose("train", overrides=overrides, return_hydra_config=True).hydra.launcher
    assert launcher._target_.endswith("SlurmLauncher")
    script = _make_sbatch_string(
        command="python -m submitit.core._submit jobs",
        folder=tmp_path,
        partition=launcher.partition,
        gpus_per_node=launcher.gpus_per_node,
        cpus_per_task=launcher.cpus_per_task,
        time=launcher.timeout_min,
        signal_delay_s=launcher.signal_delay_s,
    )
    lines = set(script.splitlines())
    asked = {"partition=gpu", "gpus-per-node=1", "cpus-per-task=8", "time=600"}
    assert {f"#SBATCH --{option}" for option in asked} <= lines
