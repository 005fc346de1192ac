"""Training tasks: LightningModules around the networks of :mod:`csc_nets.models`."""

from typing import Any

from torch import nn

from csc_nets.tasks.autoencoding import AutoencodingTask
from csc_nets.tasks.classification import ClassificationTask
from csc_nets.tasks.code_statistics import CodeStatistics, csc_layers, observe_codes
from csc_nets.tasks.dictionary_learning import DictionaryLearningTask
from csc_nets.tasks.optimization import parameter_groups
from csc_nets.tasks.task import Task
from csc_nets.tasks.transcription import TranscriptionTask

__all__ = [
    "AutoencodingTask",
    "ClassificationTask",
    "CodeStatistics",
    "DictionaryLearningTask",
    "Task",
    "TranscriptionTask",
    "create_task",
    "csc_layers",
    "observe_codes",
    "parameter_groups",
]

_TASKS: dict[str, type[Task]] = {
    "autoencoding": AutoencodingTask,
    "classification": ClassificationTask,
    "dictionary_learning": DictionaryLearningTask,
    "transcription": TranscriptionTask,
}


def create_task(name: str, model: nn.Module, **kwargs: Any) -> Task:
    """Builds a task by its name.

    Args:
        name: ``"autoencoding"``, ``"classification"``, ``"dictionary_learning"`` or ``"transcription"``.
        model: the network to train.
        **kwargs: arguments of the task.

    Raises:
        ValueError: unknown name.
    """
    if name not in _TASKS:
        raise ValueError(f"create_task: unknown task {name!r}; known: {', '.join(sorted(_TASKS))}")
    return _TASKS[name](model, **kwargs)
