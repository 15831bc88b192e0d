"""The configuration: a YAML file, overridden by key.path=value, checked strictly before anything starts."""

from hvdclip.config.checking import check, load
from hvdclip.config.configuration import Config, differences
from hvdclip.config.error import ConfigError
from hvdclip.config.named import FROM_DATA, settings_model
from hvdclip.config.references import import_function
from hvdclip.config.sections import Checkpoint, Columns, Comm, Log, Shards, Train

__all__ = [
    "FROM_DATA",
    "Checkpoint",
    "Columns",
    "Comm",
    "Config",
    "ConfigError",
    "Log",
    "Shards",
    "Train",
    "check",
    "differences",
    "import_function",
    "load",
    "settings_model",
]
