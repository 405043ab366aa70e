"""Where a sketch may be asked for, and which key goes there."""

from __future__ import annotations

import pytest
from likeness.pipelines.sketch import endpoint as endpoints
from likeness.pipelines.sketch.endpoint import endpoint, key_for


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("", "is no address"),
        ("localhost:11434", "is no address"),
        ("file:///etc/passwd", "is no address"),
        ("ftp://localhost/v1", "is no address"),
        ("http://", "is no address"),
        ("http://[::1", "is no address"),
        ("http://localhost:99999/v1", "is no address"),
        ("https://user:secret@api.openai.com/v1", "environment variable"),
        ("https://api.openai.com/v1?key=secret", "environment variable"),
        ("http://local host/v1", "white space"),
        ("http://8.8.8.8/v1", "use https"),
        ("http://[::ffff:8.8.8.8]/v1", "use https"),
        ("http://169.254.169.254/latest", "use https"),
        ("http://0.0.0.0/v1", "use https"),
        ("http://255.255.255.255/v1", "use https"),
        ("http://no-such-server.invalid/v1", "is not found"),
    ],
)
def test_addresses_that_are_not_asked(address, said):
    with pytest.raises(ValueError, match=said) as error:
        endpoint(address)
    assert "secret" not in str(error.value)


def test_addresses():
    place = endpoint(" http://LOCALHOST:1234/v1/ ")
    assert (place.url, place.host, place.local) == (
        "http://127.0.0.1:1234/v1/chat/completions", "localhost:1234", True,
    )  # fmt: skip
    assert endpoint("http://10.1.2.3/v1").url == "http://10.1.2.3/v1/chat/completions"
    assert endpoint("http://[::1]:80").url == "http://[::1]:80/chat/completions"
    whole = endpoint("https://api.openai.com/v1/chat/completions")
    assert whole.url == "https://api.openai.com/v1/chat/completions" and not whole.local


def test_a_name_cannot_change_its_meaning_after_it_was_checked(monkeypatch):
    """Plain http goes to the address that was looked at (DNS rebinding)."""
    asked = []

    def lookup(name, port, *_):
        asked.append(name)
        number = "127.0.0.1" if len(asked) == 1 else "8.8.8.8"
        return [(2, 1, 6, "", (number, port))]

    monkeypatch.setattr(endpoints.socket, "getaddrinfo", lookup)
    assert endpoint("http://rebinding.example/v1").url == "http://127.0.0.1/v1/chat/completions"
    assert asked == ["rebinding.example"]


def test_key_for_https_needs_the_very_host(monkeypatch):
    monkeypatch.setenv("LIKENESS_LLM_KEY", "sk-secret")
    monkeypatch.setenv("LIKENESS_LLM_KEY_HOST", "API.openai.com")
    assert key_for("LIKENESS_LLM_KEY", endpoint("https://api.openai.com/v1")) == "sk-secret"
    for other in ("https://api.openai.com.evil.example/v1", "https://evil.example/api.openai.com"):
        assert key_for("LIKENESS_LLM_KEY", endpoint(other)) == ""
