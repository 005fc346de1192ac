"""Objects by name, so that a class in a user's own file is as good as one of ours."""

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

__all__ = ["Registry"]

T = TypeVar("T", bound=Callable[..., Any])


class Registry(Generic[T]):
    """Classes or functions by name.

    Args:
        kind: what they are, for messages: ``"pursuit"``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that gives a class or function a name.

        Raises:
            ValueError: another module has registered that name.
        """

        def add(entry: T) -> T:
            known = self._entries.get(name)
            if known is not None and known.__module__ != entry.__module__:
                raise ValueError(f"register_{self.kind}: {name!r} is taken by {known.__module__}")
            self._entries[name] = entry
            return entry

        return add

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> T:
        """The entry of that name.

        Raises:
            ValueError: an unknown name; the message has the nearest ones.
        """
        if name not in self._entries:
            near = difflib.get_close_matches(str(name), self._entries)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise ValueError(f"{self.kind} must be one of {', '.join(self)}, got {name!r}{hint}")
        return self._entries[name]

    def build(self, spelling: Any, base: type, **options: Any) -> Any:
        """An object from an object of the class ``base``, a name, or a mapping with ``name`` and arguments.

        Raises:
            ValueError: an unknown name, arguments that the entry does not take, something else.
        """
        if isinstance(spelling, base):
            return spelling
        if isinstance(spelling, str):
            spelling = {"name": spelling}
        if not isinstance(spelling, Mapping) or "name" not in spelling:
            raise ValueError(
                f"{self.kind} must be a name ({', '.join(self)}), a mapping with a name, or a {base.__name__}, "
                f"got {spelling!r}"
            )
        name = spelling["name"]
        entry, given = self[name], {**options, **{k: v for k, v in spelling.items() if k != "name"}}
        try:
            inspect.signature(entry).bind(**given)
        except TypeError as error:
            takes = ", ".join(inspect.signature(entry).parameters) or "no arguments"
            raise ValueError(f"{self.kind} {name!r}: {error}; it takes {takes}") from error
        return entry(**given)
