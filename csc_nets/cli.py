"""What ``train.py`` and ``evaluate.py`` call: from a configuration to a run folder, and from there to numbers."""

import json
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra
import lightning as L
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from lightning.pytorch.callbacks import ModelCheckpoint, Timer, TQDMProgressBar
from torch import nn

from csc_nets.checkpoint import load, read_checkpoint
from csc_nets.data import ImageDataModule, create_datamodule
from csc_nets.data.embedded import with_statistics
from csc_nets.evaluation import save_report
from csc_nets.layers import Coder
from csc_nets.memory import reuse_memory
from csc_nets.models import create_model
from csc_nets.plugins import import_installed, import_plugins, installed_plugins, named_plugins
from csc_nets.tasks import Task, create_task
from csc_nets.tasks.pictures import save_pictures
from csc_nets.tasks.registry import accepts
from csc_nets.tasks.run_folder import RunFolder
from csc_nets.tasks.trainer import build_trainer

__all__ = ["build", "evaluate", "plain", "run", "train"]

_TABLE = {
    "test/acc": ("test accuracy", "{:.2%}"),
    "test/objective": ("test objective", "{:.4g}"),
    "test/psnr": ("test PSNR", "{:.2f} dB"),
    "test/ssim": ("test SSIM", "{:.4f}"),
    "test/alignment": ("feature alignment", "{:.4f}"),
    "test/density": ("code density", "{:.2%}"),
    "test/reconstruction_error": ("reconstruction error", "{:.4f}"),
    "training_seconds": ("training time", "{:.1f} s"),
}
_NOISE = (
    ".*does not have many workers.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*is smaller than the logging interval.*",
    ".*GPU available but not used.*",
    ".*You requested to overfit but enabled .* shuffling.*",
    ".*torch.jit.script.* is deprecated.*",
    ".*isinstance\\(treespec, LeafSpec\\).*",
)


def train(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Trains a network, tests its best checkpoint, and leaves everything in the run folder.

    Args:
        cfg: the tree of ``configs/train.yaml``. With ``resume``, all the rest but ``plugins`` comes from that run's
            ``config.yaml``.

    Returns:
        Test numbers, ``val/best`` (the best validation score), ``training_seconds`` and ``collapsed``, 0.

    Raises:
        ValueError: a bad value in ``cfg``.
        FileNotFoundError: ``resume`` names no run folder, or the data are missing.
        FloatingPointError: the loss is not finite, or a game has collapsed. The folder's ``metrics.json`` then holds
            ``collapsed``, 1, and ``collapsed_at_batch``, counted from 1.
    """
    _quiet()
    config = plain(cfg)
    plugins = _import_plugins(config)
    resume = config["resume"]
    folder = RunFolder(Path(resume or config["run_dir"]).absolute())
    if resume:
        config = _config_of_run(folder, plugins)
    else:  # so that a run says by which statistics its images were normalised
        config["data"] = with_statistics(config["data"], "train")
    config["plugins"] = plugins
    data, task = build(config)
    if config["compile"]:
        task.compile_model()
    trainer = build_trainer(folder.path, task, config["trainer"], config["callbacks"], config["logger"])
    last = folder.checkpoint("last")
    if last.is_file():
        read_checkpoint(last)  # one clear line where it is damaged
    if not resume and trainer.is_global_zero:
        folder.create(config)
    try:
        trainer.fit(task, datamodule=data, ckpt_path=last if last.is_file() else None)
    except SystemExit:
        print(f"stopped; to go on: python train.py resume={folder.path}", file=sys.stderr)
        raise
    except FloatingPointError:
        if trainer.is_global_zero:
            _write({"collapsed": 1, "collapsed_at_batch": trainer.fit_loop.total_batch_idx + 1}, folder.metrics)
        raise

    best = trainer.checkpoint_callback
    (timer,) = (c for c in trainer.callbacks if isinstance(c, Timer))  # type: ignore[attr-defined]
    assert isinstance(best, ModelCheckpoint) and best.dirpath is not None
    folder = RunFolder(Path(best.dirpath).parent)  # that of the first process, where there are several
    results: dict[str, Any] = {"training_seconds": round(timer.time_elapsed("train"), 1)}
    results |= {"collapsed": 0, "collapsed_at_batch": None}
    if best.best_model_score is not None:
        results["val/best"] = best.best_model_score.item()
    model = load(folder.path)
    if config["test"]:
        results |= _test(model, config, data, trainer)
    if trainer.is_global_zero:
        _finish(results, folder, folder.metrics)
        if config["pictures"]:
            _pictures(model, data, folder)
    return results


def evaluate(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Tests the network of a run folder, from its ``config.yaml`` and one of its checkpoints, or reports on it.

    Args:
        cfg: the tree of ``configs/evaluate.yaml``.

    Returns:
        Test numbers. They are written to ``metrics.json`` in the run folder; with another ``lam`` or ``steps`` than in
        training, or on another data set, to a file beside it whose name says so. With ``report``, none: a report goes
        to the folder's ``reports``, and there to a folder of its own in these cases.

    Raises:
        ValueError: a bad value in ``cfg``, a damaged checkpoint.
        FileNotFoundError: ``run`` names no run folder, or the data are missing.
    """
    _quiet()
    options = plain(cfg)
    plugins = _import_plugins(options)
    folder = RunFolder(Path(options["run"]).absolute())
    config = _config_of_run(folder, plugins)
    model = load(folder.checkpoint(options["which"]))
    changed = {key: options[key] for key in ("lam", "steps") if options[key] is not None}
    set_pursuit(model, **changed)
    data = build_data(config, options["data"])
    label = "-".join(f"{key}={value}" for key, value in {**_named(options["data"]), **changed}.items())
    if options["report"] is not None:
        reports = folder.path / "reports" / label
        print(save_report(options["report"], model.eval(), data, reports, options["images"], options["network"]))
        print(f"\nwritten to {reports}")
        return {}
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "callbacks": TQDMProgressBar()}
    trainer = L.Trainer(default_root_dir=folder.path, **quiet, **options["trainer"])
    results = {"checkpoint": options["which"], **changed, **_test(model, config, data, trainer)}
    name = f"metrics-{label}" if label else "metrics"
    _finish(results, folder, folder.path / f"{name}.json")
    return results


def build(config: dict[str, Any]) -> tuple[ImageDataModule, Task]:
    """The data module and the task, with a fresh network in it, of the tree of ``configs/train.yaml`` as plain values.

    Raises:
        ValueError: an unknown name or a value out of range.
    """
    L.seed_everything(config["seed"], verbose=False)
    data = _datamodule(config)
    model = create_model(num_classes=data.num_classes, in_chans=data.in_chans, **config["model"])
    return data, _task(config, model, data)


def build_data(config: dict[str, Any], changes: Mapping[str, Any]) -> ImageDataModule:
    """The data of a run, to evaluate on: with changes, no augmentation, and no image left out of the last batch.

    With a ``name`` among the changes it is another data set, shown to the network as its own was: normalised alike, and
    brought to the same size and number of channels where the data set can be. A ``root`` alone is where the run's own
    data are now.

    Raises:
        ValueError: images of another number of channels.
    """
    plainly: dict[str, Any] = {"drop_last": False, "crop_padding": 0, "flip": False, "cutout": 0}
    if changes.get("name", config["data"]["name"]) in ("image_folder", "imagenet"):
        plainly["crop_scale"] = None
    if "name" not in changes:
        return _datamodule({**config, "data": {**config["data"], **plainly, **changes}})
    own = _datamodule(config)
    kept = {key: config["data"][key] for key in ("batch_size", "eval_batch_size") if key in config["data"]}
    if changes["name"] == "image_folder":
        kept |= {"image_size": own.image_size, "in_chans": own.in_chans}
    other = _datamodule({**config, "data": {**kept, **plainly, **changes}})
    if other.in_chans != own.in_chans:
        raise ValueError(f"the network takes {own.in_chans} channels, images of {other.name} have {other.in_chans}")
    alike = {"mean": list(own.mean), "std": list(own.std)}
    return _datamodule({**config, "data": {**alike, **kept, **plainly, **changes}})


def _named(changes: Mapping[str, Any]) -> dict[str, str]:
    """What files about another data set are called by; nothing for the run's own."""
    if "name" not in changes:
        return {}
    root = Path(changes["root"]).resolve().name if changes["name"] == "image_folder" and "root" in changes else ""
    return {"data": root or changes["name"]}


def set_pursuit(model: nn.Module, *, lam: float | None = None, steps: int | None = None) -> None:
    """Gives all CSC layers of ``model`` another sparsity weight or number of steps.

    Layers that solved to a tolerance take so many steps at most then, with the gradient of these steps. Only where
    ``gradient="implicit"`` was asked for is a code that is no solution refused, once it needs a gradient.

    Raises:
        ValueError: the network has no CSC layer, or a value is out of range.
    """
    if lam is None and steps is None:
        return
    # Blocks have a number of steps and no weight.
    layers: list[Any] = [m for m in model.modules() if isinstance(m, Coder) and (lam is None or hasattr(m, "lam"))]
    if not layers:
        raise ValueError(f"lam and steps need a network with CSC layers, got {type(model).__name__}")
    for layer in layers:
        if lam is not None:
            layer.lam = lam
        if steps is not None:
            layer.steps = steps


def run(program: Callable[[Mapping[str, Any]], dict[str, Any]], config_dir: Path, config_name: str) -> None:
    """Runs ``program`` on the configuration that the command line asks for; with ``-m`` on several, one after another.

    An error is one line on stderr and exit status 1; with ``HYDRA_FULL_ERROR=1`` in the environment, a traceback. What
    a sweeper may optimise is ``val/best`` of the result. A run that collapses is a result of a sweep too, the worst: it
    has its line, and the sweep goes on.

    Args:
        program: :func:`train` or :func:`evaluate`.
        config_dir: folder of the tree.
        config_name: its root, without ``.yaml``.
    """
    reuse_memory()
    whole = os.environ.get("HYDRA_FULL_ERROR") == "1"

    def job(cfg: Any) -> float | None:
        hydra_config = HydraConfig.get()
        in_sweep = hydra_config.mode is RunMode.MULTIRUN
        os.environ["HYDRA_FULL_ERROR"] = str(int(whole))  # for the processes that a trainer starts
        try:
            config = _resolved(cfg)
            if in_sweep:
                config["run_dir"] = hydra_config.runtime.output_dir
            beside = ("resume=", "plugins=")
            others = [choice for choice in hydra_config.overrides.task if not choice.startswith(beside)]
            if config.get("resume") and others:
                allowed = "resume takes everything but plugins from the run's config.yaml"
                raise ValueError(f"{allowed}, got also {', '.join(others)}")
            return program(config).get("val/best")
        except Exception as error:
            if in_sweep and isinstance(error, FloatingPointError):
                _complain(error, f" (in {config['run_dir']}; the sweep goes on)")
                return math.inf if getattr(hydra_config.sweeper, "direction", None) == "minimize" else -math.inf
            if whole or in_sweep:
                raise
            _exit(error)
        finally:
            os.environ["HYDRA_FULL_ERROR"] = "1"

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, where it would print a traceback
    try:
        hydra.main(config_path=str(config_dir.absolute()), config_name=config_name)(job)()
    except Exception as error:
        if whole:
            raise
        _exit(error)


def plain(node: Any) -> Any:
    """A configuration as dicts, lists and values, with all references resolved."""
    if isinstance(node, Mapping):
        return {str(key): plain(value) for key, value in node.items()}
    if isinstance(node, Sequence) and not isinstance(node, str | bytes):
        return [plain(value) for value in node]
    return node


def _import_plugins(options: Mapping[str, Any]) -> list[str]:
    """Imports what installed packages offer and what the user names; returns the latter, with absolute paths."""
    import_installed()
    return import_plugins(options.get("plugins", []))


def _config_of_run(folder: RunFolder, plugins: list[str]) -> dict[str, Any]:
    """The ``config.yaml`` of a run. Plugins that it names are code, so they have to stand in the command too.

    Raises:
        ValueError: the run has plugins, and the command has none.
    """
    config = folder.config()
    trained = named_plugins(config.get("plugins", []))
    if trained and not plugins:
        needed = f"plugins=[{','.join(trained)}]"
        raise ValueError(f"this run was trained with {needed}; add {needed} to the command")
    return {**config, "data": with_statistics(config["data"], "all")}


def _datamodule(config: dict[str, Any]) -> ImageDataModule:
    return create_datamodule(**config["data"], seed=config["seed"], channels_last=config["channels_last"])


def _task(config: dict[str, Any], model: nn.Module, data: ImageDataModule) -> Task:
    options = {**config["task"], "seed": config["seed"], "channels_last": config["channels_last"]}
    statistics = {"mean": data.mean, "std": data.std}
    options |= {key: value for key, value in statistics.items() if accepts(options["name"], key)}
    task = create_task(model=model, **options)
    task.plugins = [*config.get("plugins", []), *installed_plugins()]
    return task


def _test(model: nn.Module, config: dict[str, Any], data: ImageDataModule, trainer: L.Trainer) -> dict[str, float]:
    (results,) = trainer.test(_task(config, model, data), datamodule=data, verbose=False)
    return dict(results)


def _finish(results: dict[str, Any], folder: RunFolder, file: Path) -> None:
    """Writes the numbers to ``file`` and shows the table."""
    _write(results, file)
    rows = [(label, form.format(results[key])) for key, (label, form) in _TABLE.items() if key in results]
    print("\n" + "\n".join(f"{label:<22}{value}" for label, value in [*rows, ("run", str(folder.path))]))


def _write(results: dict[str, Any], file: Path) -> None:
    """Adds the numbers to those in ``file``."""
    known = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**known, **results}, indent=2) + "\n")


def _pictures(model: nn.Module, data: ImageDataModule, folder: RunFolder) -> None:
    save_pictures(model.cpu().eval(), data.test_images(8), data.denormalize, folder.pictures)


def _resolved(cfg: Any) -> dict[str, Any]:
    try:
        return plain(cfg)
    except Exception as error:  # a value that must be given, or a reference that leads nowhere
        raise ValueError(str(error).splitlines()[0]) from error


def _complain(error: Exception, where: str = "") -> None:
    """Prints the message of an error, and its type where that is not one that bad input causes."""
    text = " ".join(str(error).split("Config search path")[0].split())
    if not isinstance(error, ValueError | OSError | FloatingPointError | HydraException):
        text = f"{type(error).__name__}: {text} (HYDRA_FULL_ERROR=1 shows where)"
    sys.stdout.flush()
    print(f"error: {text}{where}", file=sys.stderr)


def _exit(error: Exception) -> NoReturn:
    _complain(error)
    sys.exit(1)


def _quiet() -> None:
    """Leaves out what the libraries say and a user cannot act on."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message)
