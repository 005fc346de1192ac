import pytest

from csc_nets.registry import Part, Registry


def make(home, name="square"):
    """A function that seems to come from the module ``home``."""

    def build():
        return home

    build.__name__, build.__module__ = name, home
    return build


@pytest.fixture
def shapes():
    shapes = Registry("shape", "register_shape", "create_shape")
    shapes.add(make("geometry"))
    return shapes


def test_a_part_is_written_down_by_its_name_and_arguments():
    parts = Registry("part")

    @parts.decorator("ring")
    class Ring(Part):
        def __init__(self, inner=1, outer=2):
            self.inner, self.width = inner, outer - inner
            self.outer = outer

    class Closed(Ring):
        pass

    assert Ring(outer=3).plain() == {"name": "ring", "inner": 1, "outer": 3}
    assert parts.build(Ring(outer=3).plain(), Part).width == 2
    with pytest.raises(ValueError, match="its class is not registered"):
        Closed().plain()
    ring = Ring()
    del ring.outer
    with pytest.raises(ValueError, match="it keeps no attribute 'outer' of its arguments"):
        ring.plain()
    with pytest.raises(
        ValueError, match="part 'ring': got an unexpected keyword argument 'size'; it takes inner, outer"
    ):
        parts.build({"name": "ring", "size": 3}, Part)


def test_names_are_sorted_and_found(shapes):
    shapes.add(make("geometry"), name="circle")
    assert shapes.names() == ["circle", "square"] and shapes["circle"]() == "geometry"


def test_a_decorator_stands_with_and_without_parentheses(shapes):
    assert shapes.decorate(make("geometry", "line"), None).__name__ == "line"
    assert shapes.decorate(None, "ray")(make("geometry")).__name__ == "square"
    assert shapes.names() == ["line", "ray", "square"]


def test_a_module_may_be_loaded_again_and_another_one_is_refused(shapes):
    shapes.add(make("geometry"))
    with pytest.raises(
        ValueError, match=r"^register_shape: 'square' is taken by geometry; give the one in mine another"
    ):
        shapes.add(make("mine"))
    assert shapes["square"]() == "geometry"


def test_an_unknown_name_comes_with_the_nearest_and_with_all(shapes):
    shapes.add(make("geometry"), name="circle")
    with pytest.raises(
        ValueError, match=r"^create_shape: unknown shape 'sqare'; did you mean square\? known: circle, square$"
    ):
        shapes["sqare"]
    with pytest.raises(ValueError, match=r"^create_shape: unknown shape 3; known: circle, square$"):
        shapes[3]
