"""The settings of algorithms, in groups that they share, and what is said of wrong ones."""

from hvdclip.settings.averaging import AveragingSettings, LocalSgdSettings
from hvdclip.settings.groups import (
    BufferPolicy,
    ClippedSgdSettings,
    CommonSettings,
    Finite,
    LocalSettings,
    OuterSettings,
    Positive,
    SgdSettings,
    ThresholdSettings,
    setting,
)
from hvdclip.settings.inner import ByShape

__all__ = [
    "AveragingSettings",
    "BufferPolicy",
    "ByShape",
    "ClippedSgdSettings",
    "CommonSettings",
    "Finite",
    "LocalSettings",
    "LocalSgdSettings",
    "OuterSettings",
    "Positive",
    "SgdSettings",
    "ThresholdSettings",
    "setting",
]
