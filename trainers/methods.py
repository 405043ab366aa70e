"""Every training method. A new one is one new file and one line here."""

from __future__ import annotations

from .lora import LoraMethod
from .method import Method

METHODS: tuple[type[Method], ...] = (LoraMethod,)


def method_named(name: str) -> type[Method]:
    """The method with that id.

    Raises:
        ValueError: no such method; lists the known ones.
    """
    for method in METHODS:
        if method.name == name:
            return method
    names = ", ".join(method.name for method in METHODS)
    raise ValueError(f"unknown training method {name!r}; known methods: {names}")
