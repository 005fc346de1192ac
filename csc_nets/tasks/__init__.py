"""Training tasks: LightningModules around the networks of :mod:`csc_nets.models`."""

from csc_nets.tasks.activations import ActivationsTask
from csc_nets.tasks.adversarial import Adversary
from csc_nets.tasks.autoencoding import AutoencodingTask
from csc_nets.tasks.classification import ClassificationTask
from csc_nets.tasks.code_statistics import CodeStatistics, csc_layers, observe_codes
from csc_nets.tasks.denoising import DenoisingTask
from csc_nets.tasks.dictionary_learning import DictionaryLearningTask
from csc_nets.tasks.optimization import parameter_groups
from csc_nets.tasks.registry import create_task, list_tasks, register_task
from csc_nets.tasks.sparse_autoencoding import SparseAutoencodingTask
from csc_nets.tasks.task import Task
from csc_nets.tasks.transcription import TranscriptionTask

__all__ = [
    "ActivationsTask",
    "Adversary",
    "AutoencodingTask",
    "ClassificationTask",
    "CodeStatistics",
    "DenoisingTask",
    "DictionaryLearningTask",
    "SparseAutoencodingTask",
    "Task",
    "TranscriptionTask",
    "create_task",
    "csc_layers",
    "list_tasks",
    "observe_codes",
    "parameter_groups",
    "register_task",
]
