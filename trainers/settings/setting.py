"""Settings of trainings are made as all settings are."""

from __future__ import annotations

from ...pipelines.setting import Setting, check, describe, from_dict, setting, to_dict

__all__ = ["Setting", "check", "describe", "from_dict", "setting", "to_dict"]
