"""One request to a language model's server, as safely as a workflow from a stranger needs.

Where a scene goes and which key goes along is decided by two people: the workflow names the
endpoint and the variable that holds the key; the owner of this machine has set that variable, and
beside it the only host that may have it. A workflow alone can neither send a key somewhere else nor
read any other variable.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from queue import Empty, Queue
from threading import Event, Thread
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

SECONDS = 300.0
"""For the whole answer: a model on a processor writes a sketch in a few minutes."""
MAX_ANSWER = 1_000_000
"""Bytes. A sketch of the largest size has 50,000."""
KEY_NAME = re.compile(r"LIKENESS_[A-Z0-9_]*(KEY|TOKEN)")
_HOST_SUFFIX = "_HOST"
_POLL = 0.1  # seconds between two looks at the stop button


@dataclass(frozen=True)
class Endpoint:
    url: str
    """Of the chat completions, on the address that was checked."""
    host: str
    """As the user wrote it, with its port where it has one."""
    local: bool
    """Plain http, to this machine or its own network."""


def endpoint(address: str) -> Endpoint:
    """The place that an address such as `http://localhost:11434/v1` names.

    Raises:
        ValueError: no http or https, a user name or query in it, or plain http to a place that is
            not on this machine's own network.
    """
    address = address.strip().rstrip("/")
    try:
        parts = urlsplit(address)
        name, port = parts.hostname or "", parts.port
    except ValueError:
        name, port, parts = "", None, urlsplit("")
    if parts.scheme not in ("http", "https") or not name:
        raise ValueError(
            f"the endpoint {address[:100]!r} is no address; write one such as "
            "http://localhost:11434/v1 or https://api.openai.com/v1"
        )
    if parts.username is not None or parts.query or parts.fragment or re.search(r"\s", address):
        raise ValueError(
            "the endpoint holds a user name, a query or white space; name only the server and the "
            "path, and put the key into an environment variable"
        )
    path = parts.path.removesuffix("/chat/completions") + "/chat/completions"
    if parts.scheme == "https":
        return Endpoint(f"https://{parts.netloc}{path}", parts.netloc.lower(), False)
    # The address that was looked at is the one that is used, whatever the name means later.
    number = _private_address(name)
    shown = f"[{number}]" if ":" in number else number
    where = f"{shown}:{port}" if port else shown
    return Endpoint(f"http://{where}{path}", parts.netloc.lower(), True)


def _private_address(name: str) -> str:
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(name, None)}
    except (OSError, UnicodeError) as error:
        raise ValueError(f"the endpoint's server {name[:80]!r} is not found ({error})") from None
    for number in sorted(found, key=lambda text: (":" in text, text)):
        address = ipaddress.ip_address(number.partition("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        odd = address.is_link_local or address.is_unspecified or address.is_reserved
        if address.is_loopback or (address.is_private and not odd):
            return number
    raise ValueError(
        f"the endpoint http://{name[:80]} is not on this machine or its own network; use https"
    )


def key_for(variable: str, place: Endpoint) -> str:
    """The key that may be sent there; "" if there is none for it.

    Raises:
        ValueError: the variable's name is not one that a workflow may name.
    """
    if not KEY_NAME.fullmatch(variable):
        raise ValueError(
            f"the key variable {variable[:60]!r} is not used: its name must begin with LIKENESS_, "
            "end with KEY or TOKEN, and hold only A-Z, 0-9 and _, so that a workflow cannot ask "
            "for other secrets"
        )
    host = os.environ.get(variable + _HOST_SUFFIX, "").strip().lower()
    key = os.environ.get(variable, "").strip()
    if host != place.host or not key:
        return ""
    if not key.isascii() or not key.isprintable():
        raise ValueError(f"the key in {variable} holds characters that no key has")
    return key


def post(
    place: Endpoint,
    body: bytes,
    key: str,
    check: Callable[[], None] = lambda: None,
    seconds: float = SECONDS,
) -> bytes:
    """The answer to a request.

    `check`: called ten times a second while waiting; what it raises ends the wait.

    Raises:
        ValueError: no connection, no answer in time, one that is too long, a redirect, or the
            server's own error.
    """
    answers: Queue[bytes | ValueError] = Queue()
    given_up = Event()
    work = Thread(
        target=lambda: answers.put(_answer(place, body, key, seconds, given_up)), daemon=True
    )
    work.start()
    try:
        for _ in range(max(1, int(seconds / _POLL))):
            check()
            try:
                answer = answers.get(timeout=_POLL)
            except Empty:
                continue
            if isinstance(answer, ValueError):
                raise answer
            return answer
    finally:
        given_up.set()
    raise ValueError(f"the language model at {place.host} did not answer in {seconds:g} seconds")


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_args: object) -> None:
        return None  # urllib then raises the answer as an HTTPError


def _answer(
    place: Endpoint, body: bytes, key: str, seconds: float, given_up: Event
) -> bytes | ValueError:
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    if place.local:
        headers["Host"] = place.host
    request = Request(place.url, data=body, headers=headers, method="POST")
    # Proxies are for other networks; a local request stays here.
    handlers = [_NoRedirect(), *([ProxyHandler({})] if place.local else [])]
    try:
        with build_opener(*handlers).open(request, timeout=seconds + 1) as response:
            return _read(response, given_up)
    except HTTPError as error:
        with error:
            return _refused(place, error, bool(key))
    except (URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return ValueError(f"the language model at {place.host} cannot be asked: {reason}")
    except HTTPException as error:
        return ValueError(f"{place.host} does not speak HTTP as it should ({type(error).__name__})")


def _read(response: IO[bytes], given_up: Event, most: int = MAX_ANSWER) -> bytes:
    parts, size = [], 0
    while not given_up.is_set() and (part := response.read1(65536)):  # type: ignore[attr-defined]
        parts.append(part)
        size += len(part)
        if size > most:
            raise ValueError(f"its answer has more than {most:,} bytes")
    return b"".join(parts)


class Refused(ValueError):
    """The server's own error; `detail`: the beginning of what it wrote."""

    def __init__(self, message: str, status: int, detail: str) -> None:
        super().__init__(message)
        self.status = status
        self.detail = detail


def _refused(place: Endpoint, error: HTTPError, with_key: bool) -> ValueError:
    if 300 <= error.code < 400:
        return ValueError(
            f"{place.host} sends the request on to another address ({error.code}); redirects are "
            "not followed, name that address as the endpoint"
        )
    try:
        detail = " ".join(error.read(2000).decode(errors="replace").split())[:300]
    except (OSError, ValueError):
        detail = ""
    hint = ""
    if error.code in (401, 403):
        hint = (
            "; look at the key"
            if with_key
            else "; no key was sent. Where the program is started, set the environment variable "
            f"that key_variable names to the key, and that with _HOST behind it to {place.host}"
        )
    return Refused(
        f"the language model at {place.host} answers {error.code} {error.reason}{hint}. {detail}",
        error.code,
        detail,
    )
