from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir

from csc_nets.cli import build, plain
from csc_nets.data import list_datasets
from csc_nets.models import list_models
from csc_nets.tasks.trainer import build_trainer

CONFIGS = Path(__file__).parents[1] / "configs"


def choices(group):
    """Files of a group, without the one for names that have no file."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml") if path.stem != "plain")


def config_of(*overrides, name="train"):
    with initialize_config_dir(str(CONFIGS)):
        return plain(compose(name, overrides=list(overrides)))


@pytest.fixture
def imagenet(tmp_path):
    for split in ("train", "val"):
        for label in ("n01440764", "n01443537"):
            (tmp_path / split / label).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_every_experiment_can_be_built(experiment, imagenet, tmp_path):
    root = [f"data.root={imagenet}"] if experiment.startswith(("imagenet", "image_folder")) else []
    config = config_of(f"experiment={experiment}", *root)
    assert config["name"] == experiment
    embedded = config["data"]["name"] in ("digits", "sample_images")  # their images are made at once
    with torch.device("cpu" if embedded else "meta"):
        data, task = build(config)
    if "num_classes" in task.model.model_args:
        assert task.model.num_classes == data.num_classes
    trainer = build_trainer(tmp_path, task, config["trainer"], config["callbacks"], config["logger"])
    assert trainer.max_epochs == config["trainer"]["max_epochs"]


def test_published_recipes_are_what_was_published():
    task = config_of("experiment=cifar10_sdnet18")["task"]
    assert (task["lr"], task["weight_decay"], task["min_lr"], task["nesterov"]) == (0.1, 5e-4, 1e-6, True)
    config = config_of("experiment=imagenet_sdnet18_all")
    assert (config["task"]["schedule"], config["task"]["milestones"]) == ("step", [30, 60, 90])
    assert (config["data"]["batch_size"], config["trainer"]["max_epochs"]) == (256, 100)
    assert config["model"]["stem"] == "imagenet"


def test_the_same_recipe_for_network_and_baseline():
    sdnet, resnet = (config_of(f"experiment=cifar10_{name}") for name in ("sdnet18", "resnet18"))
    assert {key: sdnet[key] for key in ("task", "data", "trainer", "seed")} == {
        key: resnet[key] for key in ("task", "data", "trainer", "seed")
    }


def test_every_network_and_data_set_has_a_file():
    assert choices("model") == list_models()
    assert choices("data") == list_datasets()


@pytest.mark.parametrize("name", choices("model"))
def test_every_network_file_can_be_built(name):
    tasks = {"autoencoder": "autoencoding", "dictionary": "dictionary_learning", "ctrl": "transcription"}
    tasks |= dict.fromkeys(("denoiser", "cdlnet", "gdlnet", "cscnet", "dncnn"), "denoising")
    task = next((tasks[word] for word in tasks if word in name), "classification")
    with torch.device("meta"):
        _, built = build(config_of(f"model={name}", f"task={task}", "data=cifar10"))
    assert built.model.model_name == name
    chosen = config_of(f"model={name}")["model"]
    assert {**built.model.model_args, **chosen} == {**built.model.model_args, "name": name}


@pytest.mark.parametrize("group", ["trainer", "logger", "callbacks", "debug", "sweep"])
def test_every_other_file_composes(group):
    for name in choices(group):
        if name not in ("optuna", "pareto"):  # need a plugin, see tests/sweeps/test_study.py
            assert config_of(f"{group}={name}")["model"]["name"] == "csc_small"


def test_the_documented_command_composes():
    config = config_of("experiment=cifar10_sdnet18", "trainer=gpu", "logger=wandb", "trainer.precision=bf16-mixed")
    assert config["trainer"]["precision"] == "bf16-mixed"
    assert (config["trainer"]["accelerator"], config["logger"]["name"]) == ("gpu", "wandb")


def test_switches_reach_the_task_and_the_data():
    data, task = build(config_of("channels_last=true", "seed=3"))
    assert data.channels_last and task.channels_last
    assert (data.seed, task.seed) == (3, 3)


def test_a_configuration_is_plain_values():
    config = config_of("experiment=imagenet_sdnet18")
    assert yaml.safe_load(yaml.safe_dump(config)) == config
    assert config["name"] in config["run_dir"]


def test_evaluation_composes():
    config = config_of("run=x", "+data.root=y", name="evaluate")
    assert (config["which"], config["data"]) == ("best", {"root": "y"})
