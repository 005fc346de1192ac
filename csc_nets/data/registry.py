"""Data sets by name: ``register_dataset``, ``list_datasets``, ``create_datamodule``."""

from collections.abc import Callable
from typing import Any, TypeVar, overload

from csc_nets.data.module import ImageDataModule
from csc_nets.registry import Registry
from csc_nets.signature import Signature, signature_of

__all__ = ["create_datamodule", "dataset_signature", "list_datasets", "register_dataset"]

_DATASETS: Registry[Callable[..., ImageDataModule]] = Registry("data set", "register_dataset", "create_datamodule")
_Build = TypeVar("_Build", bound=Callable[..., ImageDataModule])


@overload
def register_dataset(build: _Build, *, name: str | None = None) -> _Build: ...
@overload
def register_dataset(*, name: str) -> Callable[[_Build], _Build]: ...
def register_dataset(build: Any = None, *, name: str | None = None) -> Any:
    """Decorator that makes a function, or a class, a data set.

    The function returns an `ImageDataModule`. It hands the options on that it does not take itself: programs pass
    ``seed``, ``channels_last`` and what the configuration holds, such as ``batch_size``.

    Args:
        build: The function, where the decorator stands without parentheses.
        name: What the data set is called; None for the function's name.

    Raises:
        ValueError: If another module has registered that name.

    Example::

        @register_dataset
        def noise(**options: Any) -> ImageDataModule:
            return TensorDataModule(torch.rand(100, 1, 8, 8), torch.arange(100) % 2, **options)
    """
    return _DATASETS.decorate(build, name)


def list_datasets() -> list[str]:
    """Names that `create_datamodule` knows, sorted."""
    return _DATASETS.names()


def dataset_signature(name: str) -> Signature:
    """The options of a data set.

    Raises:
        ValueError: In one line, if the name is unknown.
    """
    return signature_of(_DATASETS[name])


def create_datamodule(name: str, **options: Any) -> ImageDataModule:
    """Build the data module of a data set.

    Args:
        name: One of `list_datasets`.
        options: ``root`` and ``download`` where files are read, and the options of `ImageDataModule`.

    Raises:
        ValueError: In one line, if the name is unknown or an option is out of range.
        TypeError: If an option is unknown.

    Example:
        >>> data = create_datamodule("digits", batch_size=64)
        >>> images, labels = next(iter(data.train_dataloader()))
        >>> tuple(images.shape), data.num_classes
        ((64, 1, 8, 8), 10)
    """
    return _DATASETS[name](**options)
