"""Tasks by name: ``register_task``, ``list_tasks``, ``create_task``."""

from collections.abc import Callable
from typing import Any, TypeVar, overload

from torch import nn

from csc_nets.registry import Registry
from csc_nets.signature import Signature, signature_of
from csc_nets.tasks.task import Task

__all__ = ["accepts", "create_task", "list_tasks", "register_task", "task_signature"]

TASKS: Registry[type[Task]] = Registry("task", "register_task", "create_task")
_Class = TypeVar("_Class", bound=type[Task])


@overload
def register_task(task: _Class, *, name: str | None = None) -> _Class: ...
@overload
def register_task(*, name: str) -> Callable[[_Class], _Class]: ...
def register_task(task: Any = None, *, name: str | None = None) -> Any:
    """Decorator that makes a subclass of :class:`~csc_nets.tasks.Task` a task.

    ``train.py`` builds it with the network and with what the configuration holds under ``task``. Where ``__init__``
    takes ``mean`` and ``std``, it gets the numbers that the images were normalised with.

    Args:
        task: the class, where the decorator stands without parentheses.
        name: what the task is called; None for the name of the class.

    Raises:
        ValueError: another module has registered that name, or the class is no task.

    Example::

        @register_task(name="fixed_noise")
        class FixedNoiseTask(AutoencodingTask):
            def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
                images, _ = batch
                noisy = images + 0.1 * torch.randn_like(images)
                return self.log_training_loss(mse_loss(self(noisy), images))
    """

    def register(task: _Class) -> _Class:
        if not (isinstance(task, type) and issubclass(task, Task)):
            raise ValueError(f"register_task: expected a subclass of csc_nets.tasks.Task, got {task!r}")
        TASKS.add(task, name)
        return task

    return register if task is None else register(task)


def list_tasks() -> list[str]:
    """Sorted names of the tasks."""
    return TASKS.names()


def create_task(name: str, model: nn.Module, **options: Any) -> Task:
    """Builds a task by its name.

    Args:
        name: one of :func:`list_tasks`.
        model: the network to train.
        **options: arguments of the task.

    Raises:
        ValueError: unknown name, or a value out of range.
    """
    return TASKS[name](model, **options)


def task_signature(name: str) -> Signature:
    """What a task takes, itself or by handing it on to the class that it extends.

    Raises:
        ValueError: unknown name.
    """
    return signature_of(TASKS[name])


def accepts(name: str, option: str) -> bool:
    """Whether a task takes an argument, see :func:`task_signature`.

    Raises:
        ValueError: unknown name.
    """
    return option in task_signature(name).arguments
