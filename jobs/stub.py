"""Writes hvdclip/__init__.pyi: hvdclip's names with types, hvdclip.optimizer with every algorithm's settings.

python jobs/stub.py [FILE]
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

import hvdclip
from hvdclip.engine import Bilevel
from hvdclip.methods import METHODS, Method
from hvdclip.settings import BufferPolicy

PLACE = Path(hvdclip.__file__).with_name("__init__.pyi")
INDENT = " " * 4
WIDTH = 120
# The types of settings that a validator checks instead of pydantic.
INSTEAD_OF_ANY = {"inner": "type[Optimizer] | Callable[..., Optimizer] | Optimizer | str | dict[str, Any] | None"}
# Types that are too long for a line; HEAD has their names.
SHORTER = {"buffer_policy": "_BufferPolicy | dict[str, _BufferPolicy]"}
ARGUMENTS = (
    f"{INDENT}model_or_params: a module, parameters, or parameter groups with an lr and weight_decay of their own",
    f"{INDENT}comm: the ranks, or a process set of Horovod; default Horovod's where it is initialised, else one rank",
    f"{INDENT}module: whose buffers take part, where model_or_params are parameters or groups; default none",
    f"{INDENT}timeout: the seconds for which a rank waits in one collective before it ends; None for no limit",
)
ARGUMENTS_OF_TWO_LEVELS = (
    f"{INDENT}model_or_params: the upper parameters x, as a module, parameters, or groups with an lr of their own",
    f"{INDENT}lower_parameters: the lower ones y, in the same forms",
    *ARGUMENTS[1:],
)

HEAD = '''\
"""{about}

Made from the code by `python jobs/stub.py`; a test holds it against the code.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias, TypeVar, overload

from torch import nn
from torch.optim import Optimizer

from hvdclip import comm as comm
from hvdclip import methods as methods
from hvdclip.comm import Communicator as Communicator
from hvdclip.comm import simulate as simulate
from hvdclip.methods import Method
from hvdclip.methods import NonFiniteGradient as NonFiniteGradient

__all__ = {names}
__version__: str

_Parameters: TypeAlias = (
    nn.Module | Iterable[nn.Parameter] | Iterable[tuple[str, nn.Parameter]] | Iterable[dict[str, Any]]
)
_BufferPolicy: TypeAlias = {buffer_policy}
_M = TypeVar("_M", bound=Method)

def algorithms() -> list[dict[str, str]]:
{algorithms}

def register(chosen: type[_M]) -> type[_M]:
{register}
'''


def stub() -> str:
    head = HEAD.format(
        about=hvdclip.__doc__,
        names=json.dumps(hvdclip.__all__),
        buffer_policy=_written(BufferPolicy),
        algorithms=_docstring(inspect.getdoc(hvdclip.algorithms) or ""),
        register=_docstring(inspect.getdoc(hvdclip.register) or ""),
    )
    return "\n".join([head, *map(_overload, METHODS.values())])


def _overload(method: type[Method]) -> str:
    fields = method.Settings.model_fields
    parameters = [
        f'name: Literal["{method.name}"]',
        "model_or_params: _Parameters",
        "*",
        *(["lower_parameters: _Parameters"] if issubclass(method, Bilevel) else []),
        "comm: Communicator | None = None",
        "module: nn.Module | None = None",
        "timeout: float | None = 600.0",
        *(f"{name}: {_type(name, field)}{_default(field, ' = ')}" for name, field in fields.items()),
    ]
    lines = ["@overload", "def optimizer(", *(f"{INDENT}{each}," for each in parameters), ") -> Method:"]
    return "\n".join([*lines, _docstring("\n".join(_words(method))), ""])


def _words(method: type[Method]) -> Iterator[str]:
    """What an editor shows: the algorithm, and a line for each setting, or two if it is long."""
    yield from wrap(f"{method.formula}.", WIDTH - len(f'{INDENT}"""'))
    yield ""
    for text in (method.paper, (method.Settings.__doc__ or "").rstrip(".")):
        yield from wrap(f"{text}.", WIDTH - len(INDENT))
    yield from ["", "Args:", *(ARGUMENTS_OF_TWO_LEVELS if issubclass(method, Bilevel) else ARGUMENTS)]
    for name, field in method.Settings.model_fields.items():
        text = f"{name}: {field.description}{_unit(field)}{_default(field, '; default ')}"
        yield from wrap(text, WIDTH - len(INDENT), initial_indent=INDENT, subsequent_indent=2 * INDENT)


def _docstring(text: str) -> str:
    first, *rest = text.replace("\\", "\\\\").split("\n")
    lines = [f'"""{first}', *rest, '"""'] if rest else [f'"""{first}"""']
    return "\n".join(f"{INDENT}{line}".rstrip() for line in lines)


def _unit(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    unit = extra.get("unit") if isinstance(extra, dict) else None
    return f"; unit {unit}" if unit else ""


def _default(field: FieldInfo, before: str) -> str:
    if field.is_required():
        return ""
    default = field.get_default(call_default_factory=True)
    return before + (json.dumps(default) if isinstance(default, str) else repr(default))


def _type(name: str, field: FieldInfo) -> str:
    if field.annotation is Any:
        return INSTEAD_OF_ANY[name]
    return SHORTER.get(name) or _written(field.annotation)


def _written(annotation: Any) -> str:
    """A type as one writes it, without the limits that pydantic checks."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _written(inside[0])
    if origin in (Union, UnionType):
        return " | ".join(map(_written, inside))
    if origin is Literal:
        return f"Literal[{', '.join(map(json.dumps, inside))}]"
    if origin is not None:
        return f"{origin.__name__}[{', '.join(map(_written, inside))}]"
    return "None" if annotation is NoneType else annotation.__name__


if __name__ == "__main__":
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else PLACE
    place.write_text(stub())
