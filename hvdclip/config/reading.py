"""The YAML file and what overrides it, as nested dictionaries that nobody has checked yet."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import yaml

from hvdclip.config.error import ConfigError
from hvdclip.config.sections import SECTIONS


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes 1e-4 for a string; this takes it for the number that it is."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def read(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(path.read_text(), _Loader)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}; hvdclip configs lists those that come along") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise ConfigError(f"{path} is nested too deeply to be read") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds no sections; valid are {', '.join(SECTIONS)}")
    return raw


def override(raw: dict[str, Any], given: str) -> None:
    path, equals, text = given.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise ConfigError(f"{given!r} is no override; allowed is key.path=value, say algorithm.interval=4")
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {text!r} is not YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise ConfigError(f"{path}: its value is nested too deeply to be read") from None
    for key in keys[:-1]:
        inside = raw.get(key)
        raw[key] = {"name": inside} if isinstance(inside, str) else copy.copy(inside or {})
        raw = raw[key]
        if not isinstance(raw, dict):
            raise ConfigError(f"{path}: {key} has no settings of its own")
    raw[keys[-1]] = value
