"""What ``train.py`` and ``evaluate.py`` call: from a configuration to a run folder, and from there to numbers."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import hydra
import lightning as L
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn

from csc_nets.checkpoint import load, read_checkpoint
from csc_nets.data import ImageDataModule, create_datamodule
from csc_nets.data.embedded import with_statistics
from csc_nets.evaluation import check_report, compare_runs, report_label, save_report
from csc_nets.layers import Coder
from csc_nets.memory import reuse_memory
from csc_nets.models import create_model
from csc_nets.models.rebuilding import MisfitError, check_network
from csc_nets.models.registry import network_signature
from csc_nets.plugins import import_installed, import_plugins, installed_plugins, named_plugins
from csc_nets.sweeps import SweepFolder, execution_whitelist, finish_sweep, register_launchers, run_job
from csc_nets.tasks import Task, create_task
from csc_nets.tasks.command_line import checked_command
from csc_nets.tasks.evaluation_label import LabelPart, evaluation_label
from csc_nets.tasks.file_names import quote_folders
from csc_nets.tasks.messages import complain, leave_out_noise
from csc_nets.tasks.options import known_options, plain, refuse_unknown, resolved
from csc_nets.tasks.pictures import save_pictures
from csc_nets.tasks.processes import keep_global_batch, processes_of, shared_config
from csc_nets.tasks.registry import accepts
from csc_nets.tasks.results import add_results, show_results
from csc_nets.tasks.resuming import checkpoint_to_resume, fit_of_checkpoint, weights_of_run
from csc_nets.tasks.run_folder import RunFolder, folder_option
from csc_nets.tasks.run_lock import run_lock
from csc_nets.tasks.safe_files import note
from csc_nets.tasks.schema import EvaluationOptions, TrainingOptions, check_data, check_evaluation, check_options
from csc_nets.tasks.stopping import exit_status
from csc_nets.tasks.trainer import build_trainer, finish_loggers, new_run, own_logger, training_results

__all__ = ["build", "evaluate", "plain", "run", "train"]

_MACHINE = ("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy")


def train(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Trains a network, tests its best checkpoint, and leaves everything in the run folder.

    A run folder whose name is a time, as that of a run that was given none, is never shared: the later of two such runs
    takes the next free name. Nobody else can write to the folder meanwhile.

    Args:
        cfg: the tree of ``configs/train.yaml``. With ``resume``, all the rest but ``plugins`` comes from that run's
            ``config.yaml``, and from ``machine``, options of the trainer that say which devices it has now.

    Returns:
        Test numbers, ``val/best`` (the best validation score), ``training_seconds`` and ``collapsed``, 0. Where the
        data have no test images, ``tested_on`` is ``"val"``, else ``"test"``; where the best checkpoint is lost,
        ``checkpoint`` is ``"last"``, else ``"best"``.

    Raises:
        ValueError: a bad value in ``cfg``.
        FileNotFoundError: ``resume`` names no run folder, or the data are missing.
        FileExistsError: ``run_dir`` holds a run already.
        BlockingIOError: another process writes to the run folder.
        FloatingPointError: the loss is not finite, or the training has diverged, or a game has collapsed. The folder's
            ``metrics.json`` then holds ``collapsed``, 1, and ``collapsed_at_batch``, counted from 1.
    """
    leave_out_noise()
    config = plain(cfg)
    plugins = _import_plugins(config)
    resume = config["resume"] is not None
    folder = RunFolder(folder_option("resume" if resume else "run_dir", config["resume" if resume else "run_dir"]))
    machine = config.get("machine", {})
    if resume:
        config = _config_of_run(folder, plugins)
        config["trainer"] = {**config["trainer"], **machine}
    with _named(folder.path / "config.yaml") if resume else nullcontext():
        check_options(config, TrainingOptions)
    if not resume:  # so that a run says by which statistics its images were normalised
        config["data"] = with_statistics(config["data"], "train")
    config["plugins"] = plugins
    config["logger"] = own_logger(config["logger"], folder.path, resume)
    data, task = rebuild(folder, config) if resume else build(config)
    if config["compile"]:
        task.compile_model()
    settings = config["trainer"], config["callbacks"], config["logger"]
    if resume:
        trainer = build_trainer(folder.path, task, *settings)
    else:
        trainer, folder = new_run(folder, config, lambda path: build_trainer(path, task, *settings))
    shared = {**config, "run_dir": str(folder.path), "resume": str(folder.path) if resume else None, "machine": machine}
    to_go_on = f"{_program()} resume={folder.path}"
    # Recipes ask for it, too, for all their networks, with atoms or without.
    if "task.decay_atoms" in _named_options() and trainer.is_global_zero and (idle := task.idle_decay()):
        note(f"task.decay_atoms=true changes nothing: {idle}")
    try:
        with (
            run_lock(folder.path) if trainer.is_global_zero else nullcontext(),
            processes_of(trainer, shared, to_go_on),
        ):
            return _fit_and_test(trainer, task, data, folder, config, resume)
    except (SystemExit, KeyboardInterrupt) as stop:
        if trainer.is_global_zero:
            print(f"stopped; to go on: {to_go_on}", file=sys.stderr)
        raise SystemExit(exit_status(stop)) from None
    finally:
        finish_loggers(trainer.loggers, failed=sys.exc_info()[0] is not None)


def _fit_and_test(
    trainer: L.Trainer, task: Task, data: ImageDataModule, folder: RunFolder, config: dict[str, Any], resume: bool
) -> dict[str, Any]:
    if trainer.is_global_zero:
        folder.sweep()
    data.keep_split(folder.split, write=trainer.is_global_zero)
    start = None
    if resume and (start := checkpoint_to_resume(folder, config)) is not None:
        keep_global_batch(data, read_checkpoint(start).get("trained") or {}, trainer.world_size)
    for logger in trainer.loggers:
        logger.log_hyperparams(config)
    try:
        trainer.fit(task, datamodule=data, ckpt_path=start)
    except FloatingPointError:
        if trainer.is_global_zero:
            add_results({"collapsed": 1, "collapsed_at_batch": trainer.fit_loop.total_batch_idx + 1}, folder.metrics)
        raise

    folder, results = training_results(trainer)
    model = load(folder.path)
    if config["test"]:
        results |= _test(model, config, data, trainer)
    if trainer.is_global_zero:
        show_results(results, folder.path)  # first: the disk may be full
        add_results(results, folder.metrics)
        if config["pictures"]:
            save_pictures(model.cpu().float().eval(), data.test_images(8), data.denormalize, folder.pictures)
            if hasattr(model, "encode") and hasattr(model, "decode"):
                print(save_report("rate_distortion", model, data, folder.path / "reports"))
    return results


def evaluate(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Tests the network of a run folder, from its ``config.yaml`` and one of its checkpoints, or reports on it.

    Args:
        cfg: the tree of ``configs/evaluate.yaml``.

    Returns:
        Test numbers. They are written to ``metrics.json`` in the run folder, if they are those of the run's own test.
        With anything that changes them (another ``lam`` or ``steps``, the last checkpoint, other images or fewer,
        another precision) they go to a file beside it whose name says so. With ``report``, none: a report goes to the
        folder's ``reports``, and there to a folder of its own in these cases and where options of the report differ.

    Raises:
        ValueError: a bad value in ``cfg``, a damaged checkpoint.
        FileNotFoundError: ``run`` names no run folder, or the data are missing.
    """
    leave_out_noise()
    options = plain(cfg)
    plugins = _import_plugins(options)
    check_options({key: value for key, value in options.items() if key != "data"}, EvaluationOptions)
    check_evaluation(options, _named_options())
    if options["report"] is not None:
        check_report(*_of_report(options))
    if isinstance(options["run"], list) and all(isinstance(run, str) and run for run in options["run"]):
        return _compare(options, plugins)
    model, data, folder, config, changed = _trained(options, options["run"], plugins)
    if options["report"] is not None:
        name, images, network, asked = _of_report(options)
        more = report_label(name, images, network, asked)
        reports = folder.path / "reports" / evaluation_label(options, config, other=data.only_test, more=more)
        print(save_report(name, model.eval(), data, reports, images, network, folder.path, asked))
        print(f"\nwritten to {reports}")
        return {}
    label = evaluation_label(options, config, other=data.only_test)
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "callbacks": TQDMProgressBar()}
    if options["test_views"] is not None:
        if not accepts(config["task"]["name"], "test_views"):
            raise ValueError(f"test_views is for classifiers; the run is one of task {config['task']['name']}")
        changed["test_views"] = options["test_views"]
        config = {**config, "task": {**config["task"], "test_views": options["test_views"]}}
    trainer = L.Trainer(default_root_dir=folder.path, **quiet, **options["trainer"])
    with processes_of(trainer, options, "the same command"):
        results = {"checkpoint": options["which"], **changed, **_test(model, config, data, trainer)}
    show_results(results, folder.path, own="name" not in options["data"])
    written = folder.path / f"metrics-{label}.json" if label else folder.metrics
    add_results(results, written)
    print(f"{'numbers':<22}{written.name}")
    return results


def _trained(
    options: dict[str, Any], run: Any, plugins: list[str]
) -> tuple[nn.Module, ImageDataModule, RunFolder, dict[str, Any], dict[str, Any]]:
    """The network of a run and its data as they were asked for, with what was asked of its layers."""
    folder = RunFolder(folder_option("run", run))
    config = _config_of_run(folder, plugins)
    check_data(options["data"], config)
    file = folder.checkpoint(options["which"])
    fit_of_checkpoint(read_checkpoint(file), config, file)
    model = load(file)
    changed = {key: options[key] for key in ("lam", "steps") if options[key] is not None}
    set_pursuit(model, **changed)
    data = build_data(config, options["data"])
    if not {"name", "val_fraction", "split_seed"} & set(options["data"]) and folder.split.is_file():
        data.keep_split(folder.split, write=False)
    return model, data, folder, config, changed


def _compare(options: dict[str, Any], plugins: list[str]) -> dict[str, Any]:
    """Several runs side by side, in the reports of the first one."""
    name, images, network, asked = _of_report(options)
    runs, paths = [], [str(folder_option("run", run).resolve()) for run in options["run"]]
    more = [LabelPart("runs", str(len(paths)), paths), *(report_label(name, images, network, asked) if name else [])]
    for run in options["run"]:
        model, data, folder, config, _ = _trained(options, run, plugins)
        reports = folder.path / "reports" / evaluation_label(options, config, other=data.only_test, more=more)
        runs.append((model.eval(), data, reports, folder.path))
    print(compare_runs(name, runs, images, network, asked))
    print(f"\nwritten to {runs[0][2]}")
    return {}


def _of_report(options: Mapping[str, Any]) -> tuple[Any, Any, Any, Any]:
    """What a report is asked for."""
    return options["report"], options["images"], options["network"], options["options"]


def build(config: dict[str, Any]) -> tuple[ImageDataModule, Task]:
    """The data module and the task, with a fresh network in it, of the tree of ``configs/train.yaml`` as plain values.

    Raises:
        ValueError: an unknown name or a value out of range.
    """
    L.seed_everything(config["seed"], verbose=False)
    data = _datamodule(config)
    model = create_model(num_classes=data.num_classes, in_chans=data.in_chans, **config["model"])
    return data, _task(config, model, data)


def rebuild(folder: RunFolder, config: dict[str, Any]) -> tuple[ImageDataModule, Task]:
    """As :func:`build`, for the configuration in a run folder: only a network that its checkpoint has the weights of.

    Raises:
        ValueError: the network has other sizes, or does not fit into memory where there is no checkpoint.
    """
    data = _datamodule(config)
    name, known = config["model"].get("name"), {"num_classes": data.num_classes, "in_chans": data.in_chans}
    taken = network_signature(name).arguments
    arguments = {
        k: v for k, v in {**known, **config["model"]}.items() if k != "name" and (k not in known or k in taken)
    }
    try:
        check_network(name, arguments, weights_of_run(folder, config))
    except MisfitError as error:
        raise ValueError(f"{folder.path}: the network of config.yaml does not fit: {error}") from error
    return build(config)


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
        raise ValueError(
            f"the network takes {own.in_chans} channels, images of {other.name} have {other.in_chans}; "
            f"add +data.in_chans={own.in_chans} where the data set takes it"
        )
    alike = {"mean": list(own.mean), "std": list(own.std)}
    return _datamodule({**config, "data": {**alike, **kept, **plainly, **changes}})


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

    An error is one line on stderr and exit status 1; with ``HYDRA_FULL_ERROR=1`` in the environment, a traceback. A
    job of a sweep that fails has its line, and the sweep goes on; its exit status is 1 then. A run that collapses is a
    result of a sweep, the worst. The same command goes on with a sweep that was stopped. What a sweeper optimises is
    ``objective``, numbers of the result.

    Args:
        program: :func:`train` or :func:`evaluate`.
        config_dir: folder of the tree.
        config_name: its root, without ``.yaml``.
    """
    reuse_memory()
    register_launchers()
    sys.argv[1:] = quote_folders(sys.argv[1:])
    whole = os.environ.get("HYDRA_FULL_ERROR") == "1"
    top = TrainingOptions if config_name == "train" else EvaluationOptions
    shared = shared_config()
    try:
        if shared is None:
            sys.argv = [sys.argv[0], *checked_command(sys.argv[1:], config_dir, config_name, top)]
    except Exception as error:
        if whole:
            raise
        _exit(error)
    failures = 0

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, where it would print a traceback
    try:
        if shared is not None:  # a process of a training that another one has started
            os.environ["HYDRA_FULL_ERROR"] = str(int(whole))
            program(shared)
            return
        job = _Job(program, config_dir, config_name, whole)
        hydra.main(config_path=str(config_dir.absolute()), config_name=config_name, **execution_whitelist())(job)()
        failures = finish_sweep()
    except (SIGTERMException, KeyboardInterrupt) as stop:  # outside of training, which says more
        print("stopped" + _to_go_on(), file=sys.stderr)
        sys.exit(exit_status(stop))
    except Exception as error:
        if whole:
            raise
        _exit(error)
    finally:
        SweepFolder.forget()
    if failures:
        sys.exit(1)


@dataclass(frozen=True)
class _Job:
    """What Hydra calls with a configuration. Processes of a sweep that inherit nothing can have it sent."""

    program: Callable[[Mapping[str, Any]], dict[str, Any]]
    config_dir: Path
    config_name: str
    whole: bool

    def __call__(self, cfg: Any) -> Any:
        hydra_config = HydraConfig.get()
        in_sweep = hydra_config.mode is RunMode.MULTIRUN
        os.environ["HYDRA_FULL_ERROR"] = str(int(self.whole))  # for the processes that a trainer starts
        try:
            config = resolved(cfg)
            refuse_unknown(config, known_options(self.config_dir, self.config_name))
            if config.get("resume") is not None:
                config["machine"] = _machine(hydra_config.overrides.task, config)
            if in_sweep and "run_dir" in config and config["resume"] is None:
                return run_job(self.program, config, hydra_config)
            return self.program(config).get("val/best")
        except Exception as error:
            if self.whole or in_sweep:
                raise
            _exit(error)
        finally:
            os.environ["HYDRA_FULL_ERROR"] = "1"


def _machine(overrides: Sequence[str], config: dict[str, Any]) -> dict[str, Any]:
    """What the command of a run that goes on says of the devices that it has now.

    Raises:
        ValueError: it says something else.
    """
    named = [choice.lstrip("+").partition("=")[0] for choice in overrides]
    if others := [o for o, name in zip(overrides, named, strict=True) if name not in ("resume", "plugins", *_MACHINE)]:
        raise ValueError(
            "resume takes everything from the run's config.yaml but plugins and the devices "
            f"({', '.join(_MACHINE)}), got also {', '.join(others)}"
        )
    return {key.partition(".")[2]: config["trainer"][key.partition(".")[2]] for key in named if key in _MACHINE}


def _named_options() -> set[str]:
    """Options that the command names; none in a call from Python."""
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return {str(override).lstrip("+").partition("=")[0] for override in overrides}


def _program() -> str:
    """What a user typed to train."""
    return sys.argv[0] if sys.argv[0].startswith("csc-nets ") else "python train.py"


def _to_go_on() -> str:
    return "; to go on: the same command" if SweepFolder.current() else ""


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
    with _named(folder.path / "config.yaml"):
        check_data(config["data"], config)
    return {**config, "data": with_statistics(config["data"], "all")}


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Puts the name of a file in front of what is wrong with it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _datamodule(config: dict[str, Any]) -> ImageDataModule:
    return create_datamodule(**config["data"], seed=config["seed"], channels_last=config["channels_last"])


def _task(config: dict[str, Any], model: nn.Module, data: ImageDataModule) -> Task:
    options = {**config["task"], "seed": config["seed"], "channels_last": config["channels_last"]}
    statistics = {"mean": data.mean, "std": data.std}
    options |= {key: value for key, value in statistics.items() if accepts(options["name"], key)}
    task = create_task(model=model, **options)
    task.plugins = [*config.get("plugins", []), *installed_plugins()]
    return task


def _test(model: nn.Module, config: dict[str, Any], data: ImageDataModule, trainer: L.Trainer) -> dict[str, Any]:
    (results,) = trainer.test(_task(config, model, data), datamodule=data, verbose=False)
    return {**results, "tested_on": "test" if data.has_test else "val"}


def _exit(error: Exception) -> NoReturn:
    complain(error)
    sys.exit(1)
