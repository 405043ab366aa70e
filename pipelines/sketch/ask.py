"""A scene in words to a sketch program, by a language model that the user names."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ..remembered import Remembered
from .endpoint import Endpoint, Refused, endpoint, key_for, post
from .fit import check_size
from .limits import MAX_CHARACTERS
from .picture import sketch
from .prompt import SYSTEM, repair_message, scene_message

MAX_SCENE = 4000
"""Characters."""
KEY_VARIABLE = "LIKENESS_LLM_KEY"
Message = dict[str, str]
_answers = Remembered(64)


def program_for(
    scene: str,
    address: str,
    model: str,
    *,
    width: int,
    height: int,
    seed: int = 0,
    key_variable: str = KEY_VARIABLE,
    check: Callable[[], None] = lambda: None,
) -> str:
    """A program that draws `scene`. The same question is asked only once while this process lives.

    `address`: of the server, such as `http://localhost:11434/v1`. `width`, `height`: of the
    picture, in pixels. `key_variable`: the environment variable that holds the server's key.
    `check`: called while waiting; what it raises ends the wait.

    Raises:
        ValueError: the address or the variable may not be used, the server does not answer as it
            should, or the model's program cannot be drawn, not even after it was told why.
    """
    check_size(width, height)
    scene = " ".join(scene.split())
    if not scene or len(scene) > MAX_SCENE:
        raise ValueError(f"a scene of {len(scene)} characters; describe it in 1 to {MAX_SCENE}")
    if not model.strip():
        raise ValueError("name the language model that the endpoint has, such as llama3.1")
    place = endpoint(address)
    key = key_for(key_variable.strip() or KEY_VARIABLE, place)

    def answer() -> str:
        talk = _Talk(place, key, model.strip(), seed, check)
        return talk.program(scene, width, height)

    shape = scene_message("", width, height)
    return _answers.get((place, model.strip(), scene, shape, seed), answer)


def forget_answers() -> None:
    """Ask again from now on."""
    _answers.clear()


class _Talk:
    """One question, and one repair of its answer."""

    def __init__(
        self, place: Endpoint, key: str, model: str, seed: int, check: Callable[[], None]
    ) -> None:
        self._place, self._key, self._check = place, key, check
        self._settings: dict[str, Any] = {
            "model": model,
            "temperature": 0,
            "seed": seed,
            "stream": False,
        }

    def program(self, scene: str, width: int, height: int) -> str:
        messages = [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": scene_message(scene, width, height)},
        ]
        program = self._say(messages)
        problem = _problem(program, width, height)
        if problem:
            messages += [
                {"role": "assistant", "content": program[:MAX_CHARACTERS]},
                {"role": "user", "content": repair_message(problem)},
            ]
            program = self._say(messages)
            problem = _problem(program, width, height)
        if problem:
            raise ValueError(
                f"the model's sketch cannot be drawn: {problem}\nIts program, to correct and paste "
                f"into program:\n{program[:4000]}"
            )
        return program

    def _say(self, messages: list[Message]) -> str:
        try:
            answer = self._post(messages)
        except Refused as refused:
            # Some models know only their own temperature, some servers no seed.
            refusable = {name for name in ("temperature", "seed") if name in refused.detail}
            if refused.status not in (400, 422) or not refusable & self._settings.keys():
                raise
            for name in refusable:
                self._settings.pop(name, None)
            answer = self._post(messages)
        return _content(answer, self._place)

    def _post(self, messages: list[Message]) -> bytes:
        body = json.dumps({**self._settings, "messages": messages}).encode()
        return post(self._place, body, self._key, self._check)


def _content(answer: bytes, place: Endpoint) -> str:
    """The text of a chat completion."""
    try:
        text = json.loads(answer)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        text = None
    if not isinstance(text, str) or not text.strip():
        began = answer[:200].decode(errors="replace")
        raise ValueError(
            f"{place.host} does not answer as a chat completion should; is its path complete, such "
            f"as /v1? It says: {began!r}"
        )
    return text.encode(errors="replace").decode().strip()  # no half characters


def _problem(program: str, width: int, height: int) -> str:
    """Why it cannot be drawn; "" if it can."""
    try:
        sketch(program, width, height)
    except ValueError as problem:
        return str(problem)
    return ""
