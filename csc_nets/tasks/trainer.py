"""The Lightning trainer of a run: what it writes, and where."""

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, Timer
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from csc_nets.checkpoint import read_checkpoint
from csc_nets.signature import check_value
from csc_nets.tasks.checkpoint_io import SafeCheckpointIO
from csc_nets.tasks.keeping import EarlyStopping, LastValidation, MovableCheckpoint
from csc_nets.tasks.lookahead import Lookahead
from csc_nets.tasks.metrics_csv import MetricsCSV
from csc_nets.tasks.progress import RunProgress
from csc_nets.tasks.pruning import MedianPruning
from csc_nets.tasks.run_folder import RunFolder, free_names
from csc_nets.tasks.sharding import FullySharded
from csc_nets.tasks.stopping import AgreedStop
from csc_nets.tasks.synced_norms import SyncedNorms
from csc_nets.tasks.task import Task
from csc_nets.tasks.trainer_options import trainer_signature
from csc_nets.tasks.training_pictures import TrainingPictures
from csc_nets.tasks.weight_averaging import AveragedWeights

__all__ = ["build_trainer", "finish_loggers", "new_run", "own_logger", "training_results"]

_MOST_NAMES = 10_000
CALLBACKS = ("ema_decay", "lookahead", "patience", "prune_after", "progress_bar", "pictures_every")


def build_trainer(
    run_dir: Path, task: Task, trainer: dict[str, Any], callbacks: dict[str, Any], logger: dict[str, Any]
) -> L.Trainer:
    """The trainer that fills a run folder.

    Args:
        run_dir: absolute path of the run folder; gets ``checkpoints/`` and ``metrics.csv``, and ``pictures/`` where
            they are wanted in training.
        task: names the number that decides which checkpoint is best.
        trainer: arguments of ``lightning.Trainer``.
        callbacks: ``ema_decay`` (None for no weight averaging), ``patience`` (epochs without progress after which
            training stops, None for never), ``prune_after`` (epochs after which a run of a sweep ends that is behind
            the median of the others, None for never), ``lookahead`` (steps from one pull of the slow weights to the
            next, None for none), ``pictures_every`` (epochs from one set of pictures to the next, None for none in
            training), ``progress_bar``.
        logger: ``name`` and the arguments of that logger, see :func:`build_loggers`.

    Raises:
        ValueError: unknown logger, or a bad value.
    """
    check_value("trainer.max_epochs", trainer["max_epochs"], trainer_signature().arguments["max_epochs"])
    for key in ("fast_dev_run", "barebones"):
        if trainer.get(key):
            raise ValueError(f"trainer.{key} leaves no checkpoint to test: use debug=fast")
    options = dict(trainer)
    max_time = options.pop("max_time", None)
    if unknown := set(callbacks) - set(CALLBACKS):
        raise ValueError(f"unknown option callbacks.{min(unknown)} (known: {', '.join(CALLBACKS)})")
    norms = [SyncedNorms()] if trainer.get("sync_batchnorm") else []
    chosen = build_callbacks(run_dir, task, max_time=max_time, **callbacks)
    loggers = build_loggers(run_dir, **logger)
    progress_bar = callbacks["progress_bar"]
    try:
        built = L.Trainer(
            default_root_dir=run_dir,
            callbacks=chosen,
            logger=loggers,
            enable_progress_bar=progress_bar,
            plugins=[SafeCheckpointIO(), *norms],
            **options,
        )
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise ValueError(f"trainer: {error}") from error
    if isinstance(built.strategy, FullySharded):
        built.strategy.check_device()
    return built


def new_run(
    folder: RunFolder, config: dict[str, Any], build: Callable[[Path], L.Trainer]
) -> tuple[L.Trainer, RunFolder]:
    """The trainer and the folder of a new run; the folder is made last, so that a bad value leaves none.

    Args:
        folder: the one asked for. Where its name is a time and somebody has taken it, the next free name.
        config: everything that was chosen, for ``config.yaml``.
        build: from the path of the folder to a trainer.

    Raises:
        FileExistsError: the folder holds a run already.
    """
    names = list(islice(free_names(folder.path), _MOST_NAMES))
    for path in names:
        trainer = build(path)
        if not trainer.is_global_zero:  # the first process makes it
            break
        try:
            RunFolder(path).create(config)
            break
        except FileExistsError:
            if path == names[-1]:
                raise
    return trainer, RunFolder(path)


def build_callbacks(
    run_dir: Path,
    task: Task,
    *,
    ema_decay: float | None,
    patience: int | None,
    progress_bar: bool,
    pictures_every: int | None = None,
    lookahead: int | None = None,
    prune_after: int | None = None,
    max_time: str | Mapping[str, int] | None = None,
) -> list[Callback]:
    """The best checkpoint, then the last one (which records what the best one is), and what else was asked for.

    Training ends after the first epoch that is longer than ``max_time`` ("days:hours:minutes:seconds").
    """
    folder = run_dir / "checkpoints"
    if lookahead is not None and ema_decay is not None:
        raise ValueError(
            f"callbacks: lookahead and ema_decay both average the weights, got {lookahead} and {ema_decay}"
        )
    chosen: list[Callback] = [
        *([Lookahead(lookahead)] if lookahead is not None else []),
        _timer(max_time),
        LastValidation(),
        AgreedStop(),
        MovableCheckpoint(
            dirpath=folder,
            filename="best",
            monitor=task.monitor,
            mode=task.monitor_mode,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        ),
        MovableCheckpoint(dirpath=folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False),
    ]
    if progress_bar:
        chosen.append(RunProgress())
    if ema_decay is not None:
        if not 0 <= ema_decay < 1:
            raise ValueError(f"callbacks.ema_decay must be in [0, 1), got {ema_decay}")
        chosen.append(AveragedWeights(ema_decay))
    if patience is not None:
        if patience < 1:
            raise ValueError(f"callbacks.patience must be >= 1, got {patience}")
        chosen.append(EarlyStopping(task.monitor, mode=task.monitor_mode, patience=patience))
    if prune_after is not None:
        chosen.append(MedianPruning(prune_after, task.monitor, task.monitor_mode))
    if pictures_every is not None:
        chosen.append(TrainingPictures(RunFolder(run_dir).pictures, pictures_every))
    return chosen


def _timer(max_time: str | Mapping[str, int] | None) -> Timer:
    # Lightning leaves trainer.max_time aside where there is a timer.
    try:
        return Timer(timedelta(**max_time) if isinstance(max_time, Mapping) else max_time, "epoch", verbose=False)
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise ValueError(f"trainer.max_time must be days:hours:minutes:seconds, got {max_time!r}") from error


def build_loggers(run_dir: Path, *, name: str, **options: Any) -> list[Logger]:
    """The loggers of a run.

    Args:
        run_dir: the run folder.
        name: ``"csv"``, ``"wandb"`` (beside the table) or ``"none"``.
        **options: of Weights & Biases, such as ``project`` and ``offline``; it is imported only when chosen. ``id`` is
            that of the run there; without it, a new one.

    Raises:
        ValueError: unknown ``name``, an option that the logger does not have, or nobody is logged in.
    """
    if name in ("none", "csv") and options:
        raise ValueError(f"unknown option logger.{min(options)}: logger={name} takes none")
    if name == "none":
        return []
    if name == "csv":
        return [MetricsCSV(run_dir)]
    if name == "wandb":
        if not options.get("offline") and os.environ.get("WANDB_MODE", "online") in ("online", "shared"):
            require_login()
        settings = {"id": new_wandb_id(), "name": f"{run_dir.parent.name}-{run_dir.name}", **options}
        try:
            wandb = WandbLogger(save_dir=run_dir, resume="allow", **settings)
        except TypeError as error:
            raise ValueError(f"logger: {error}") from error
        return [MetricsCSV(run_dir), wandb]
    raise ValueError(f"logger must be 'csv', 'wandb' or 'none', got {name!r}")


@rank_zero_only
def require_login() -> None:
    """Refuses a run that Weights & Biases would not take, before there is a folder of it.

    Raises:
        ValueError: nobody is logged in, or the service does not answer.
    """
    import wandb

    try:
        wandb.login()
    except (wandb.Error, OSError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"logger=wandb: {reason}; without an account or a network: logger.offline=true") from error


def new_wandb_id() -> str:
    """A name at Weights & Biases that no other run has; a run keeps its own in ``config.yaml``, and goes on with it."""
    return secrets.token_hex(8)


def own_logger(logger: dict[str, Any], folder: Path, resume: bool) -> dict[str, Any]:
    """The logger's settings with the id of the run at Weights & Biases, where it has none.

    A run of an older version has no id in its ``config.yaml``: there it was made of the names of the folders.
    """
    if logger["name"] != "wandb" or "id" in logger:
        return logger
    if resume:
        return {**logger, "id": f"{folder.parent.name}-{folder.name}".replace("=", "-")}
    agents = os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None  # it has begun the run there
    return {**logger, "id": agents or new_wandb_id()}


def training_results(trainer: L.Trainer) -> tuple[RunFolder, dict[str, Any]]:
    """The run folder, which is that of the first process, and what is known of a training that has ended."""
    best = trainer.checkpoint_callback
    (timer,) = (c for c in trainer.callbacks if isinstance(c, Timer))  # type: ignore[attr-defined]
    assert isinstance(best, MovableCheckpoint) and best.dirpath is not None
    folder = RunFolder(Path(best.dirpath).parent)
    if best.best_model_path and best.best_model_score is None:  # ddp_fork and ddp_spawn have trained in other processes
        last = read_checkpoint(folder.checkpoint("last"))
        trainer.fit_loop.load_state_dict(last["loops"]["fit_loop"])
        trainer.fit_loop.epoch_progress.current.completed = last["epoch"] + 1  # it is written before its epoch ends
        for callback in (best, timer):
            callback.load_state_dict(last["callbacks"][callback.state_key])
    results: dict[str, Any] = {"training_seconds": round(timer.time_elapsed("train"), 1)}
    results |= {"collapsed": 0, "collapsed_at_batch": None}
    for pruning in (c for c in trainer.callbacks if isinstance(c, MedianPruning)):  # type: ignore[attr-defined]
        results["pruned_at_epoch"] = pruning.pruned_at_epoch
    if folder.checkpoint("best").is_file():
        score = best.best_model_score
        return folder, {**results, "checkpoint": "best", "val/best": None if score is None else score.item()}
    return folder, {**results, "checkpoint": "last", "val/best": None}


def finish_loggers(loggers: Sequence[Logger], failed: bool) -> None:
    """Ends the runs at Weights & Biases: the next training of this process would go on in them.

    Args:
        loggers: of a trainer.
        failed: whether an error has ended the training.
    """
    for logger in loggers:
        # ``experiment`` would begin one where there is none.
        if isinstance(logger, WandbLogger) and (run := getattr(logger, "_experiment", None)) is not None:
            run.finish(exit_code=int(failed))
            logger._experiment = None
