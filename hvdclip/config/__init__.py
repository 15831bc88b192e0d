"""The configuration: a YAML file, overridden by key.path=value, checked strictly before anything starts."""

from hvdclip.config.checking import check, check_saved, load
from hvdclip.config.combinations import NO_BATCH_NORM, NO_CONVOLUTIONS, check_for_method
from hvdclip.config.configuration import Config, differences, flat
from hvdclip.config.named import FROM_DATA, settings_model
from hvdclip.config.references import import_function, look_beside
from hvdclip.config.sections import Checkpoint, Columns, Comm, Log, Shards, Train, Windows
from hvdclip.errors import ConfigError

__all__ = [
    "FROM_DATA",
    "NO_BATCH_NORM",
    "NO_CONVOLUTIONS",
    "Checkpoint",
    "Columns",
    "Comm",
    "Config",
    "ConfigError",
    "Log",
    "Shards",
    "Train",
    "Windows",
    "check",
    "check_for_method",
    "check_saved",
    "differences",
    "flat",
    "import_function",
    "load",
    "look_beside",
    "settings_model",
]
