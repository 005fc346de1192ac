"""What a function or a class takes, read off its signature; values from a file or a command line are held against it.

A configuration and a checkpoint name arguments of functions that have type hints already. So there is no second list of
options anywhere: a new argument is an option at once, with its type and its nearest right spelling in error messages.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, Unpack, get_args, get_origin, get_type_hints

__all__ = ["Above", "Argument", "AtLeast", "AtMost", "Signature", "check_value", "nearest", "shown", "signature_of"]

_SCALARS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    NoneType: "null",
}


@dataclass(frozen=True)
class AtLeast:
    """The lower bound of a number, as ``Annotated[int, AtLeast(0)]``."""

    least: float

    def holds(self, value: float) -> bool:
        return value >= self.least

    def __str__(self) -> str:
        return f">= {self.least}"


@dataclass(frozen=True)
class Above:
    """A bound that a number must exceed, as ``Annotated[float, Above(0)]``."""

    bound: float

    def holds(self, value: float) -> bool:
        return value > self.bound

    def __str__(self) -> str:
        return f"> {self.bound}"


@dataclass(frozen=True)
class AtMost:
    """The upper bound of a number, as ``Annotated[float, AtLeast(0), AtMost(1)]``."""

    most: float

    def holds(self, value: float) -> bool:
        return value <= self.most

    def __str__(self) -> str:
        return f"<= {self.most}"


_Limit = AtLeast | Above | AtMost


@dataclass(frozen=True)
class Argument:
    """One argument: its type hint (``Any`` where it has none) and its default (``inspect.Parameter.empty``)."""

    hint: Any = Any
    default: Any = inspect.Parameter.empty


@dataclass(frozen=True)
class Signature:
    """Arguments by name.

    Args:
        arguments: in the order of the signature.
        is_open: whether others are taken too, of which nothing is known.
    """

    arguments: dict[str, Argument]
    is_open: bool = False

    def without(self, names: Iterable[str]) -> "Signature":
        """The same without some arguments."""
        left_out = set(names)
        return Signature({k: v for k, v in self.arguments.items() if k not in left_out}, self.is_open)


def signature_of(build: Callable[..., Any]) -> Signature:
    """What ``build`` takes by keyword, also what it hands on.

    ``**options: Unpack[Options]`` stands for the keys of that ``TypedDict``. Other ``**options`` are handed on: those
    of a class to the class that it extends, those of a function to the class that it is annotated to return.

    Example:
        >>> def square(side: int = 4, **options: Any) -> Path: ...
        >>> list(signature_of(square).arguments)[:1]
        ['side']
    """
    if isinstance(build, partial):
        inner = signature_of(build.func)
        return inner.without([*list(inner.arguments)[: len(build.args)], *build.keywords])
    if isinstance(build, type):
        return _of_class(build)
    own, rest = _own(build)
    if rest is None:
        return Signature(own)
    made: Any = _hints(build).get("return")
    if isinstance(rest, Mapping):
        further = Signature(dict(rest))
    else:
        further = _of_class(made) if isinstance(made, type) else Signature({}, True)
    return Signature({**own, **{k: v for k, v in further.arguments.items() if k not in own}}, further.is_open)


def check_value(option: str, value: Any, argument: Argument) -> None:
    """Refuses a value that is not of an argument's type.

    Args:
        option: what the user calls the argument.
        value: plain: a number, text, null, list or mapping.
        argument: from :func:`signature_of`.

    Raises:
        ValueError: In one line with the option, what it takes, and the value.

    Example:
        >>> check_value("widths", 48, Argument(Sequence[int], (32, 64)))
        Traceback (most recent call last):
        ValueError: widths must be a list of whole numbers such as [32,64], got 48
    """
    if type(value) is type(argument.default) and value == argument.default:
        return
    if not _fits(value, argument.hint):
        words = _words(argument.hint)
        if isinstance(argument.default, list | tuple) and argument.default and "list" in words:
            words += f" such as {shown(argument.default)}"
        allowed = _literals(argument.hint)
        near = nearest(value, allowed) if isinstance(value, str) else []
        raise ValueError(
            f"{option} must be {words}, got {shown(value)}" + (f"; did you mean {near[0]}?" if near else "")
        )


def nearest(name: object, known: Iterable[str], count: int = 1) -> list[str]:
    """The names that are most alike; a prefix or a part counts too."""
    known = list(known)
    text = str(name)
    found = get_close_matches(text, known, count)
    return found or [other for other in known if len(text) > 2 and (text in other or other in text)][:count]


def shown(value: Any) -> str:
    """A plain value as one writes it in a configuration."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(shown, value))}]"
    return repr(value)


def _of_class(made: Any) -> Signature:
    arguments: dict[str, Argument] = {}
    for base in made.__mro__:
        if "__init__" not in vars(base) or base is object:
            continue
        own, rest = _own(vars(base)["__init__"])
        arguments |= {k: v for k, v in own.items() if k not in arguments}
        if isinstance(rest, Mapping):
            return Signature({**arguments, **rest})
        if rest is None:
            return Signature(arguments)
    return Signature(arguments, True)


def _own(build: Any) -> tuple[dict[str, Argument], Mapping[str, Argument] | bool | None]:
    """Arguments that stand in the signature, and what ``**`` takes: a mapping, True for unknown ones, None without."""
    hints = _hints(build)
    arguments: dict[str, Argument] = {}
    rest: Mapping[str, Argument] | bool | None = None
    for name, parameter in inspect.signature(build).parameters.items():
        hint = hints.get(name, Any)
        if parameter.kind is parameter.VAR_KEYWORD:
            typed = get_args(hint)[0] if get_origin(hint) is Unpack else None
            rest = {key: Argument(kind) for key, kind in get_type_hints(typed).items()} if typed else True
        elif parameter.kind is not parameter.VAR_POSITIONAL and name != "self":
            arguments[name] = Argument(hint, parameter.default)
    return arguments, rest


def _hints(build: Any) -> dict[str, Any]:
    try:
        return get_type_hints(inspect.unwrap(build), include_extras=True)
    except (NameError, TypeError, AttributeError):  # names that only a type checker imports
        return {}


def _fits(value: Any, hint: Any) -> bool:
    origin, inside = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in inside)
    if origin is Annotated:
        return _fits(value, inside[0]) and all(limit.holds(value) for limit in _limits(hint))
    if origin is Literal:
        return any(type(value) is type(allowed) and value == allowed for allowed in inside)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    if origin is tuple and inside and inside[-1] is not Ellipsis:
        return isinstance(value, list | tuple) and len(value) == len(inside) and all(map(_fits, value, inside))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Sequence):
        return isinstance(value, list | tuple) and all(_fits(part, inside[0]) for part in value)
    if hint in (int, float):
        return isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
    if hint is Path:
        return isinstance(value, str | Path)
    if isinstance(hint, type):
        return isinstance(value, hint)
    return True  # of what nothing is known


def _words(hint: Any) -> str:
    """What a user may write for an argument; objects of other classes cannot be written, and are left out."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        written = [part for part in inside if part in _SCALARS or get_origin(part) is not None]
        allowed = _literals(hint)
        words = [_words(part) for part in written if get_origin(part) is not Literal]
        words = [f"one of {', '.join(allowed)}"] * bool(allowed) + words
        for wide, narrow in (("a number", "a whole number"), ("a path", "a text")):
            words = [word for word in words if word != narrow or wide not in words]
        words = list(dict.fromkeys(words)) or [_words(inside[0])]
        return ", ".join(words[:-1]) + (" or " if len(words) > 1 else "") + words[-1]
    if origin is Annotated:
        return " ".join([_words(inside[0]), " and ".join(map(str, _limits(hint)))]).strip()
    if origin is Literal:
        return f"one of {', '.join(_literals(hint))}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a mapping"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        element = _words(inside[0]) if inside else "values"
        plural = element.removeprefix("a ") + "s" * element.startswith("a ")
        return f"a list of {plural if element in ('a number', 'a whole number', 'a text', 'a path') else 'values'}"
    return _SCALARS.get(hint, f"of type {getattr(hint, '__name__', hint)}")


def _limits(hint: Any) -> list[_Limit]:
    return [limit for limit in hint.__metadata__ if isinstance(limit, _Limit)]


def _literals(hint: Any) -> list[str]:
    if get_origin(hint) is Literal:
        return [str(allowed) for allowed in get_args(hint)]
    found = [text for part in get_args(hint) for text in _literals(part)]
    return list(dict.fromkeys(found))
