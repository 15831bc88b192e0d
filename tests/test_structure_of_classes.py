"""How the methods' classes stand above each other: few levels, and no rule spread over many of them."""

import inspect
from collections.abc import Iterator

import pytest

from hvdclip.engine import Bilevel
from hvdclip.methods import METHODS

LEVELS = 3  # classes above a method's own; torch.optim.Optimizer is one of them
OF_TWO_LEVELS = 4  # bilevel methods stand on one more, which is a local method
DEFINITIONS = 2  # a rule and, where it must be, one exception from it


def above(chosen: type) -> list[type]:
    return [base for base in chosen.__mro__[1:] if base is not object]


def defined_in(chosen: type) -> Iterator[str]:
    """The names of the functions and properties that the body of a class defines."""
    for name, value in vars(chosen).items():
        function = function_of(value)
        if function is not None and not torchs(function):
            yield name


def function_of(value: object) -> object | None:
    """What runs when an attribute is called or read; None for a class and for data."""
    for inside in ("fget", "func", "__func__"):  # of a property, a cached property, a class method or static method
        value = getattr(value, inside, None) or value
    return value if inspect.isroutine(value) or hasattr(value, "__wrapped__") else None


def torchs(function: object) -> bool:
    """Whether torch has put it there: into each optimizer's class at its first start it puts a `step` with hooks."""
    return getattr(function, "hooked", False) or str(getattr(function, "__module__", "")).startswith("torch.")


def ours(chosen: type) -> list[type]:
    return [base for base in chosen.__mro__ if base.__module__.partition(".")[0] == "hvdclip"]


def spread(chosen: type) -> dict[str, list[str]]:
    """Name -> the classes that define it, from the method's own on upwards, of names that too many of them define."""
    where: dict[str, list[str]] = {}
    for base in ours(chosen):
        for name in defined_in(base):
            where.setdefault(name, []).append(f"{base.__name__} ({base.__module__})")
    return {name: classes for name, classes in where.items() if len(classes) > DEFINITIONS}


@pytest.mark.parametrize("chosen", METHODS.values(), ids=METHODS)
def test_few_classes_stand_above_a_method(chosen):
    bases = above(chosen)
    names = ", ".join(base.__name__ for base in bases)
    allowed = OF_TWO_LEVELS if issubclass(chosen, Bilevel) else LEVELS
    assert len(bases) <= allowed, f"{chosen.__name__} has {len(bases)} classes above it, allowed are {allowed}: {names}"


@pytest.mark.parametrize("chosen", METHODS.values(), ids=METHODS)
def test_no_name_is_defined_at_many_levels(chosen):
    found = [f"{chosen.__name__}.{name}: {', '.join(classes)}" for name, classes in spread(chosen).items()]
    assert not found, f"defined in more than {DEFINITIONS} classes:\n" + "\n".join(found)


# The test's own eyes


class Bottom:
    Settings, name = dict, "data"

    def __init__(self):
        pass

    def plain(self):
        pass

    @property
    def read(self):
        pass


class Middle(Bottom):
    def __init__(self):
        pass

    plain = Bottom.plain

    @property
    def read(self):
        pass


class Top(Middle):
    Settings, name = dict, "data"

    def __init__(self):
        pass

    @classmethod
    def plain(cls):
        pass

    @property
    def read(self):
        pass


def test_a_name_is_counted_in_all_its_forms(monkeypatch):
    for chosen in (Bottom, Middle, Top):
        monkeypatch.setattr(chosen, "__module__", "hvdclip.made_up")
    classes = [f"{name} (hvdclip.made_up)" for name in ("Top", "Middle", "Bottom")]
    assert spread(Top) == {"__init__": classes, "plain": classes, "read": classes}
    assert spread(Middle) == {} and above(Top) == [Middle, Bottom]
