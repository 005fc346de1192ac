"""The options of a program, held against the signatures of what they are for, before anything is built."""

from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Literal, TypedDict, get_type_hints

from csc_nets.data.registry import dataset_signature
from csc_nets.models import create_model
from csc_nets.models.registry import network_signature
from csc_nets.signature import Argument, AtLeast, AtMost, Signature, check_value, nearest, shown, signature_of
from csc_nets.tasks.options import options_alike
from csc_nets.tasks.registry import task_signature
from csc_nets.tasks.trainer import build_callbacks, build_loggers
from csc_nets.tasks.trainer_options import trainer_signature
from csc_nets.tasks.views import TestViews

__all__ = ["EvaluationOptions", "TrainingOptions", "check_data", "check_evaluation", "check_options"]


class TrainingOptions(TypedDict):
    """Options at the top of ``configs/train.yaml``; folders are checked where they are opened."""

    name: str
    seed: Annotated[int, AtLeast(0), AtMost(2**32 - 1)]
    compile: bool
    channels_last: bool
    test: bool
    pictures: bool


class EvaluationOptions(TypedDict):
    """Options at the top of ``configs/evaluate.yaml``."""

    which: Literal["best", "last"]
    lam: float | None
    steps: int | None
    test_views: TestViews | None
    report: str | None
    images: int | None
    options: Mapping[str, Any]


def check_options(config: Mapping[str, Any], top: type) -> None:
    """Refuses options that nobody takes, and values of a wrong type.

    Args:
        config: the tree of a program as plain values. The plugins that it needs are imported.
        top: the options at its top, a ``TypedDict``.

    Raises:
        ValueError: In one line that names the option, the value, and what it takes or the option that may be meant.
    """
    for key, hint in get_type_hints(top, include_extras=True).items():
        if key in config:
            check_value(key, config[key], Argument(hint))
    for group, signature in _SIGNATURES.items():
        if isinstance(config.get(group), Mapping) and ("name" in config[group] or group in ("trainer", "callbacks")):
            _check_group(group, config, signature)


def check_data(changes: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """As :func:`check_options`, for changes to the data of a run.

    Args:
        changes: some options of ``data``.
        config: of the run.
    """
    name = changes.get("name", config["data"].get("name"))
    _check_group("data", {"data": {**changes, "name": name}}, _data)


def check_evaluation(options: Mapping[str, Any], named: Collection[str]) -> None:
    """Refuses options of an evaluation that the rest of its command leaves without an effect.

    Args:
        options: the tree of ``configs/evaluate.yaml`` as plain values.
        named: the options that the command names; others are what the files have.

    Raises:
        ValueError: In one line that names the option, and says what to add or to leave out.
    """
    report = options["report"]
    of_trainer = sorted(name for name in named if name.partition(".")[0] == "trainer")
    if report is not None:
        if options["test_views"] is not None:
            raise ValueError(f"test_views is for tests; report={report} looks at each image once")
        if of_trainer:
            how = "runs on the CPU, in the precision of the weights"
            raise ValueError(f"{of_trainer[0]} is for tests; report={report} {how}")
        return
    of_reports = {key: options[key] for key in ("images", "network") if options[key] is not None}
    of_reports |= {f"options.{key}": value for key, value in options["options"].items()}
    for name, value in of_reports.items():
        raise ValueError(f"{name}={shown(value)} is for a report: add report=NAME, such as report=page")
    for name in of_trainer:
        if name.partition(".")[2] in _OF_TRAINING:
            raise ValueError(f"{name} is for a training; a test takes no such option")


_OF_TRAINING = (
    *("max_epochs", "min_epochs", "max_steps", "min_steps", "max_time", "accumulate_grad_batches"),
    *("gradient_clip_val", "gradient_clip_algorithm", "limit_train_batches", "limit_val_batches", "overfit_batches"),
    *("val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps", "reload_dataloaders_every_n_epochs"),
)


def _check_group(group: str, config: Mapping[str, Any], signature_of_name: Callable[[str], Signature]) -> None:
    options = dict(config.get(group, {}))
    name = options.pop("name", "")
    check_value(f"{group}.name", name, Argument(str))
    signature = signature_of_name(name)
    for key, value in options.items():
        if key in signature.arguments:
            check_value(f"{group}.{key}", value, signature.arguments[key])
        elif not signature.is_open:
            near = [f"{group}.{found}" for found in nearest(key, signature.arguments)]
            near = near or options_alike(key, {k: v for k, v in config.items() if k != group})
            known = f" ({name or group} takes {', '.join(signature.arguments) or 'none'})"
            raise ValueError(f"unknown option {group}.{key}" + (f", did you mean {near[0]}?" if near else known))


def _model(name: str) -> Signature:
    """Also what ``create_model`` reads weights from; classes and channels are those of the data."""
    builds = network_signature(name).without(["num_classes", "in_chans"])
    reads = {key: signature_of(create_model).arguments[key] for key in ("checkpoint_path", "pretrained")}
    return Signature({**builds.arguments, **reads}, builds.is_open)


def _data(name: str) -> Signature:
    return dataset_signature(name).without(["name", "seed", "channels_last", "class_names", "num_classes", "x", "y"])


def _task(name: str) -> Signature:
    return task_signature(name).without(["model", "seed", "channels_last", "mean", "std"])


def _logger(name: str) -> Signature:
    return signature_of(build_loggers).without(["run_dir", "name"])


def _trainer(name: str) -> Signature:
    return trainer_signature()


def _callbacks(name: str) -> Signature:
    return signature_of(build_callbacks).without(["run_dir", "task", "max_time"])


_SIGNATURES: dict[str, Callable[[str], Signature]] = {
    "data": _data,
    "model": _model,
    "task": _task,
    "trainer": _trainer,
    "callbacks": _callbacks,
    "logger": _logger,
}
