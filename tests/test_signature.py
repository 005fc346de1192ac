from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, Unpack

import pytest

from csc_nets.signature import Argument, AtLeast, check_value, nearest, shown, signature_of


class Options(TypedDict, total=False):
    lam: float


class Base:
    def __init__(self, size: int, *, seed: int = 0) -> None: ...


class Middle(Base):
    def __init__(self, model: object, *, rate: float = 0.1, **common: Any) -> None: ...


class Last(Middle):
    def __init__(self, *args: Any, weight: float = 1.0, **common: Any) -> None: ...


class Coded:
    def __init__(self, widths: Sequence[int] = (4, 8), **options: Unpack[Options]) -> None: ...


def build(name: str, **overrides: Any) -> Coded:
    return Coded(**overrides)


def unknown(**options):
    return options


def test_arguments_are_those_of_the_signature_and_of_what_it_hands_on_to():
    assert list(signature_of(Last).arguments) == ["weight", "model", "rate", "size", "seed"]
    assert not signature_of(Last).is_open
    assert list(signature_of(build).arguments) == ["name", "widths", "lam"]
    assert signature_of(build).arguments["lam"].hint is float
    assert list(signature_of(partial(Base, 3)).arguments) == ["seed"]
    assert signature_of(unknown).is_open
    assert list(signature_of(Last).without(["model", "size"]).arguments) == ["weight", "rate", "seed"]


@pytest.mark.parametrize(
    ("hint", "good", "bad", "words"),
    [
        (int, [3, -1], [True, 3.0, "3", None, [3]], "a whole number"),
        (float, [3, 0.5], [True, "0.5", None], "a number"),
        (bool, [True], [1, "true", None], "true or false"),
        (str, ["a"], [1, None], "a text"),
        (float | None, [None, 1], ["x"], "a number or null"),
        (str | Path | None, ["a", None], [1], "a path or null"),
        (Sequence[int], [[1], (), [2, 3]], ["ab", [1.5], [True], 4], "a list of whole numbers"),
        (int | Sequence[int], [1, [1]], [1.5, ["a"]], "a whole number or a list of whole numbers"),
        (Mapping[str, Any], [{"a": 1}], [[1]], "a mapping"),
        (str | Mapping[str, Any] | Base, ["a", {}], [1], "a text or a mapping"),
        (float | Base, [1.0], ["x"], "a number"),
        (tuple[float, float], [[1, 2]], [[1], [1, 2, 3]], "a list of numbers"),
        (Literal["sgd", "adamw"], ["sgd"], ["adam", 1], "one of sgd, adamw"),
        (Literal[16, "16"] | None, [16, "16", None], [32], "one of 16 or null"),
        (Annotated[int, AtLeast(0)], [0, 5], [-1, 0.5], "a whole number >= 0"),
        (Any, [1, "x", None], [], ""),
    ],
)
def test_values_are_held_against_hints(hint, good, bad, words):
    for value in good:
        check_value("x", value, Argument(hint))
    for value in bad:
        with pytest.raises(ValueError) as error:
            check_value("x", value, Argument(hint))
        assert str(error.value).startswith(f"x must be {words}, got {shown(value)}")


def test_a_default_is_always_right_and_a_list_is_shown():
    check_value("x", None, Argument(int, None))
    with pytest.raises(ValueError, match=r"^x must be a list of whole numbers such as \[4,8\], got 48$"):
        check_value("x", 48, signature_of(Coded).arguments["widths"])


def test_the_nearest_choice_is_named():
    with pytest.raises(ValueError, match=r"got 'adamm'; did you mean adamw\?$"):
        check_value("x", "adamm", Argument(Literal["sgd", "adamw"]))
    assert nearest("stpes", ["lam", "steps"]) == ["steps"]
    assert nearest("width", ["lam", "head_widths"]) == ["head_widths"]
    assert nearest("zzz", ["lam"]) == []
