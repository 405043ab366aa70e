"""The few HTTP requests that talking to a ComfyUI takes."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
import uuid
from typing import Any
from urllib.parse import urlsplit

from .errors import ServerError

TIMEOUT = 60
"""Seconds. `/object_info` of a server with many packs takes several."""


class Http:
    """Requests to one server.

    Raises:
        ServerError: the address is no http address.
    """

    def __init__(self, url: str) -> None:
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ServerError(f"{url!r} is not an address such as http://127.0.0.1:8188.")
        near = parts.hostname in ("localhost", "::1") or parts.hostname.startswith("127.")
        proxies = [urllib.request.ProxyHandler({})] if near else []
        self._opener = urllib.request.build_opener(*proxies)

    def get(self, path: str) -> bytes:
        """The body behind a path.

        Raises:
            ServerError: no answer, or not a good one.
        """
        return self._open(urllib.request.Request(self.url + path))

    def exists(self, path: str) -> bool:
        """Whether there is something behind a path."""
        request = urllib.request.Request(self.url + path, method="HEAD")
        try:
            self._open(request)
        except ServerError as error:
            if isinstance(error.__cause__, urllib.error.HTTPError):
                return False
            raise
        return True

    def json(
        self,
        path: str,
        body: Any = None,
        *,
        accept: tuple[int, ...] = (),
        empty: bool = False,
    ) -> Any:
        """GET, or POST when there is a body; returns the parsed answer.

        Args:
            accept: error codes whose answer is JSON as well.
            empty: the answer has no body.

        Raises:
            ServerError: no answer, or not a good one.
        """
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        answer = self._open(urllib.request.Request(self.url + path, data, headers), accept)
        return None if empty else self._parsed(answer, path)

    def upload(self, path: str, fields: dict[str, str], name: str, content: bytes) -> Any:
        """POST a file as `image`, as a browser's form does."""
        border = uuid.uuid4().hex
        head = f"--{border}\r\nContent-Disposition: form-data; name="
        parts = [f'{head}"{k}"\r\n\r\n{value}\r\n'.encode() for k, value in fields.items()]
        quoted = name.replace('"', "%22")
        parts.append(
            f'{head}"image"; filename="{quoted}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n".encode()
        )
        body = b"".join([*parts, content, f"\r\n--{border}--\r\n".encode()])
        headers = {"Content-Type": f"multipart/form-data; boundary={border}"}
        answer = self._open(urllib.request.Request(self.url + path, body, headers))
        return self._parsed(answer, path)

    def _open(self, request: urllib.request.Request, accept: tuple[int, ...] = ()) -> bytes:
        try:
            with self._opener.open(request, timeout=TIMEOUT) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            body = error.read()
            if error.code in accept:
                return body
            raise ServerError(
                f"{request.full_url} answered {error.code} {error.reason}: "
                f"{body[:200].decode(errors='replace')}"
            ) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ServerError(
                f"No ComfyUI answers at {self.url}: {reason}. Start it, or correct --server."
            ) from error

    def _parsed(self, answer: bytes, path: str) -> Any:
        try:
            return json.loads(answer)
        except ValueError as error:
            raise ServerError(
                f"{self.url}{path} did not answer with JSON. Is it a ComfyUI?"
            ) from error
