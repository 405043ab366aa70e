"""Every training setting, written once: its default, bounds and help. Those of a method stand in
the method's own file.
"""

from __future__ import annotations

from ...pipelines.setting import Setting, check, describe, from_dict, setting, to_dict
from .prior import FOLDER, MADE, PREDICTION, PriorSettings
from .training import EXPERT_GROUPS, ExpertSettings, TrainingSettings
from .watch import WatchSettings

__all__ = [
    "EXPERT_GROUPS",
    "FOLDER",
    "MADE",
    "PREDICTION",
    "ExpertSettings",
    "PriorSettings",
    "Setting",
    "TrainingSettings",
    "WatchSettings",
    "check",
    "describe",
    "from_dict",
    "setting",
    "to_dict",
]
