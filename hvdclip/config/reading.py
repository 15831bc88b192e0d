"""The YAML file and its overrides, as nested dictionaries that are not checked yet."""

from __future__ import annotations

import copy
import os
import re
from pathlib import Path
from typing import Any

import yaml

from hvdclip.config.sections import SECTIONS
from hvdclip.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """Reads 1e-4 as a number; refuses keys that appear twice, and numbers that YAML 1.1 reads as others."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first: dict[Any, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            line = key.start_mark.line + 1
            if key.value in first:
                lines = f"in lines {first[key.value]} and {line}" if first[key.value] != line else f"in line {line}"
                raise ConfigError(f"{key.value} is given twice, {lines}; allowed: once")
            first[key.value] = line
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        is_int = node.tag.endswith(":int")
        number: int | float = self.construct_yaml_int(node) if is_int else self.construct_yaml_float(node)
        if _MISREAD.match(node.value):
            base = "60" if ":" in node.value else "8"
            raise ConfigError(
                f"line {node.start_mark.line + 1}: YAML reads {node.value} in base {base}, as {number}; allowed: "
                "decimal numbers without a 0 in front, and text in quotes"
            )
        return number


_MISREAD = re.compile(r"[-+]?(0[0-7_]+$|[0-9][0-9_]*:)")  # 010 is 8, and 1:30 is 90
for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_number)

_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def read(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(path.read_bytes(), _Loader)  # UTF-8, whatever the locale
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}; hvdclip configs lists the included ones") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise ConfigError(f"{path} is nested too deeply to be read") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} has no sections; valid are {', '.join(SECTIONS)}")
    return raw


def override(raw: dict[str, Any], given: str) -> None:
    path, equals, text = given.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise ConfigError(f"{given!r} is not an override; allowed: key.path=value, for example algorithm.interval=4")
    try:
        value = yaml.load(_as_typed(text), _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {text!r} is not YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise ConfigError(f"{path}: its value is nested too deeply to be read") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {str(error).removeprefix('line 1: ')}") from None
    for key in keys[:-1]:
        inside = raw.get(key)
        raw[key] = {"name": inside} if isinstance(inside, str) else copy.copy(inside or {})
        raw = raw[key]
        if not isinstance(raw, dict):
            raise ConfigError(f"{path}: {key} has no settings inside it")
    raw[keys[-1]] = value


def _as_typed(text: str) -> str | bytes:
    """The text on the command line: in an ASCII locale Python keeps other letters as bytes without a letter."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return os.fsencode(text)
