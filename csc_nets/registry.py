"""Names that users can add to: the one mechanism behind pursuits, models, data sets, tasks and the like."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Generic, TypeVar

__all__ = ["Part", "Registry", "check_arguments", "refuse_taken", "unknown_name"]

Build = TypeVar("Build", bound=Callable[..., Any])


class Part:
    """Something of a registered class that can be written down: a pursuit, a penalty, a gradient."""

    registered_name: str | None = None

    def plain(self) -> dict[str, Any]:
        """The mapping from which :meth:`Registry.build` makes it again: its name and the arguments of its class.

        Raises:
            ValueError: its class has no name, or keeps an argument under another name.
        """
        if "registered_name" not in vars(type(self)):
            raise ValueError(f"{self!r} cannot be written down: its class is not registered under a name")
        arguments = inspect.signature(type(self)).parameters
        lost = [name for name in arguments if not hasattr(self, name)]
        if lost:
            raise ValueError(f"{self!r} cannot be written down: it keeps no attribute {lost[0]!r} of its arguments")
        return {"name": self.registered_name, **{name: getattr(self, name) for name in arguments}}


class Registry(Generic[Build]):
    """Functions or classes by name.

    Args:
        kind: what a name stands for, in error messages; ``"data set"`` for instance.
        register: name of the public decorator, in error messages; None for ``register_`` and the kind.
        create: name of the public function that looks a name up, in error messages; None for an argument
            that is called as the kind.

    Example:
        >>> shapes = Registry("shape", "register_shape", "create_shape")
        >>> square = shapes.add(lambda: 4, name="square")
        >>> shapes.names(), shapes["square"]()
        (['square'], 4)
        >>> shapes["sqare"]
        Traceback (most recent call last):
        ValueError: create_shape: unknown shape 'sqare'; did you mean square? known: square
    """

    def __init__(self, kind: str, register: str | None = None, create: str | None = None) -> None:
        self.kind = kind
        self.register, self.create = register or f"register_{kind}", create
        self._entries: dict[str, Build] = {}

    def add(self, build: Build, name: str | None = None) -> Build:
        """Registers ``build``, by default under its ``__name__``, and hands it back.

        A module may register a name again, so that it can be reloaded.

        Raises:
            ValueError: another module has registered that name.
        """
        name = build.__name__ if name is None else name
        if name in self._entries:
            refuse_taken(self.register, name, _home(self._entries[name]), _home(build))
        self._entries[name] = build
        if isinstance(build, type) and issubclass(build, Part):
            build.registered_name = name
        return build

    def decorate(self, build: Build | None, name: str | None) -> Any:
        """What a decorator returns that stands with (``build`` is None) or without parentheses."""
        return self.add(build, name) if build is not None else lambda build: self.add(build, name)

    def decorator(self, build: Any = None, *, name: str | None = None) -> Any:
        """The public decorator of a registry of classes, as ``@register`` or ``@register("name")``.

        Args:
            build: the class; the name, where the decorator stands with one.
            name: what the class is called on the command line; None for the name of the class.
        """
        if isinstance(build, str):
            build, name = None, build
        return self.decorate(build, name)

    def build(self, spelling: Any, base: type, **options: Any) -> Any:
        """An object from an object of the class ``base``, a name, or a mapping with ``name`` and arguments.

        Args:
            spelling: what to build.
            base: class of what is registered here.
            options: further arguments, for a name or a mapping.

        Raises:
            ValueError: an unknown name, arguments that the entry does not take, something else.
        """
        if isinstance(spelling, base):
            return spelling
        name, given = self.spelled(spelling, base)
        given = {**options, **given}
        check_arguments(f"{self.kind} {name!r}", self[name], given)
        return self[name](**given)

    def spelled(self, spelling: Any, base: type) -> tuple[str, dict[str, Any]]:
        """Name and arguments of a name, or of a mapping with ``name`` and arguments.

        Raises:
            ValueError: it is neither.
        """
        if isinstance(spelling, str):
            return spelling, {}
        if not isinstance(spelling, Mapping) or "name" not in spelling:
            raise ValueError(
                f"{self.kind} must be one of {', '.join(self.names())}, a mapping with a name, or a {base.__name__}, "
                f"got {spelling!r}"
            )
        given = dict(spelling)
        return given.pop("name"), given

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._entries)

    def __getitem__(self, name: str) -> Build:
        if name not in self._entries:
            if self.create is None:
                near = get_close_matches(str(name), self._entries, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"{self.kind} must be one of {', '.join(self.names())}, got {name!r}{hint}")
            raise unknown_name(self.create, self.kind, name, self._entries)
        return self._entries[name]


def check_arguments(owner: str, build: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Refuses arguments that ``build`` does not take.

    Raises:
        ValueError: with what it takes.
    """
    try:
        inspect.signature(build).bind(**arguments)
    except TypeError as error:
        takes = ", ".join(inspect.signature(build).parameters) or "no arguments"
        raise ValueError(f"{owner}: {error}; it takes {takes}") from error


def unknown_name(caller: str, kind: str, name: object, known: Iterable[str]) -> ValueError:
    """The error for a name that is not among ``known``: one line with the nearest names and all of them."""
    known = sorted(known)
    near = get_close_matches(str(name), known)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return ValueError(f"{caller}: unknown {kind} {name!r}; {hint}known: {', '.join(known)}")


def refuse_taken(caller: str, name: str, owner: str, newcomer: str) -> None:
    """Refuses the name that module ``newcomer`` registers where another module, ``owner``, has it already.

    Raises:
        ValueError: ``owner`` and ``newcomer`` differ.
    """
    if owner != newcomer:
        raise ValueError(f"{caller}: {name!r} is taken by {owner}; give the one in {newcomer} another name")


def _home(build: Any) -> str:
    """The module that defines ``build``; of a partial, the module of its function."""
    return str(getattr(build, "func", build).__module__)
