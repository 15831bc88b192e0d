"""The settings of algorithms, in groups that they share, and the messages for wrong ones."""

from hvdclip.settings.averaging import (
    ESTIMATORS,
    AveragingSettings,
    BilevelSettings,
    LocalSgdSettings,
    UpperStepSettings,
)
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
    "ESTIMATORS",
    "AveragingSettings",
    "BilevelSettings",
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
    "UpperStepSettings",
    "setting",
]
