"""LoRAs: their files (`files.py`), and putting them on live weights (`apply.py`)."""

from __future__ import annotations

from .apply import applied

__all__ = ["applied"]
