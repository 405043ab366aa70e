"""Asking a language model for a sketch: a real server on this machine, well and badly behaved."""

from __future__ import annotations

import time

import pytest
from likeness.pipelines.sketch.ask import forget_answers, program_for
from likeness.pipelines.sketch.endpoint import MAX_ANSWER, endpoint, post

from .sketch_server import BROKEN, GOOD, Model, send


@pytest.fixture
def model(monkeypatch):
    forget_answers()
    for name in ("LIKENESS_LLM_KEY", "LIKENESS_LLM_KEY_HOST", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    model = Model()
    yield model
    model.close()
    forget_answers()


def test_a_scene_becomes_a_program(model):
    assert model.ask(" a cup\n of  tea ", seed=7) == GOOD
    ((path, headers, body),) = model.requests
    assert path == "/v1/chat/completions"
    assert (body["model"], body["temperature"], body["seed"]) == ("tiny", 0, 7)
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert body["messages"][1]["content"] == "Scene: a cup of tea. Canvas: W=10, H=5."
    assert headers["Host"] == model.host
    assert "Authorization" not in headers


def test_the_same_question_is_asked_once(model):
    for _ in range(3):
        model.ask(seed=1)
    assert len(model.requests) == 1
    model.ask(seed=2)
    model.ask("a jug", seed=1)
    model.ask(seed=1, height=64)
    assert len(model.requests) == 4


def test_a_broken_program_is_repaired_once(model):
    model.script = [BROKEN, GOOD]
    assert model.ask() == GOOD
    messages = model.requests[1][2]["messages"]
    assert messages[2] == {"role": "assistant", "content": BROKEN}
    assert "line 1, column 1: \\drow is not known" in messages[3]["content"]


def test_a_program_that_stays_broken_is_shown_and_asked_again(model):
    model.script = [BROKEN]
    for calls in (2, 4):
        with pytest.raises(ValueError, match=r"(?s)cannot be drawn: .*\\drow.*paste.*\\drow \(1,1"):
            model.ask()
        assert len(model.requests) == calls


def test_a_model_without_a_temperature_is_asked_without(model):
    def picky(handler):
        _, _, body = model.requests[-1]
        if "temperature" in body:
            send(handler, 400, {"error": "'temperature' does not support 0 with this model"})
        else:
            send(handler, 200, {"choices": [{"message": {"content": GOOD}}]})

    model.script = [picky]
    assert model.ask() == GOOD
    assert [("temperature" in r[2], "seed" in r[2]) for r in model.requests] == [
        (True, True),
        (False, True),
    ]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda h: send(h, 200, b"not json"), "as a chat completion should.*not json"),
        (lambda h: send(h, 200, {"choices": []}), "as a chat completion should"),
        (lambda h: send(h, 200, {"choices": [{"message": {"content": None}}]}), "should"),
        (lambda h: send(h, 200, ["x"]), "should"),
        (lambda h: send(h, 200, b"[" * 100_000), "should"),
        (lambda h: send(h, 200, b"x" * (MAX_ANSWER + 1)), "more than 1,000,000 bytes"),
        (lambda h: send(h, 404, b"no such model"), "answers 404 Not Found. no such model"),
        (lambda h: send(h, 401, b"who?"), r"answers 401 .*no key was sent.*_HOST.*127\.0"),
        (lambda h: send(h, 500, b"\xff\xfe"), "answers 500"),
        (lambda h: h.wfile.write(b"hello\r\n\r\n"), "does not speak HTTP|cannot be asked"),
        (lambda h: h.connection.close(), "does not speak HTTP|cannot be asked"),
    ],
)
def test_bad_answers(model, answer, said):
    model.script = [answer]
    with pytest.raises(ValueError, match=said):
        model.ask()
    assert len(model.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(model, status):
    other = Model()
    model.script = [lambda h: send(h, status, b"", [("Location", f"{other.url}/chat/completions")])]
    with pytest.raises(ValueError, match="redirects are not followed"):
        model.ask()
    assert not other.requests
    other.close()


def drip(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        time.sleep(0.1)


@pytest.mark.parametrize("slow", [lambda h: time.sleep(8), drip], ids=["silent", "dripping"])
def test_a_slow_server_is_given_up(model, slow):
    model.script = [slow]
    begun = time.monotonic()
    with pytest.raises(ValueError, match=r"did not answer in 0\.5 seconds"):
        post(endpoint(model.url), b"{}", "", seconds=0.5)
    assert time.monotonic() - begun < 5


def test_stop_ends_the_wait(model):
    class Stop(Exception):
        pass

    def check():
        if model.requests:
            raise Stop

    model.script = [lambda h: time.sleep(8)]
    begun = time.monotonic()
    with pytest.raises(Stop):
        model.ask(check=check)
    assert time.monotonic() - begun < 5


def test_nobody_there():
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:9 cannot be asked"):
        program_for("a cup", "http://127.0.0.1:9/v1", "tiny", width=64, height=64)


def test_a_key_goes_only_where_its_owner_says(model, monkeypatch):
    def sent(**options):
        forget_answers()
        model.ask(**options)
        return model.requests[-1][1].get("Authorization")

    monkeypatch.setenv("LIKENESS_LLM_KEY", "sk-secret")
    assert sent() is None, "a key without a host goes nowhere"
    monkeypatch.setenv("LIKENESS_LLM_KEY_HOST", "api.openai.com")
    assert sent() is None
    monkeypatch.setenv("LIKENESS_LLM_KEY_HOST", model.host)
    assert sent() == "Bearer sk-secret"
    monkeypatch.setenv("LIKENESS_OTHER_TOKEN", "sk-other")
    assert sent(key_variable="LIKENESS_OTHER_TOKEN") is None
    monkeypatch.setenv("LIKENESS_LLM_KEY", "sk\nX-Evil: 1")
    with pytest.raises(ValueError, match="holds characters") as error:
        sent()
    assert "sk" not in str(error.value).replace("asked", "")


@pytest.mark.parametrize(
    "name",
    ["AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "HF_TOKEN", "PATH", "likeness_llm_key",
     "LIKENESS_LLM", "LIKENESS_KEY\n", "LIKENESS_LLM_KEY_HOST", "LIKENESS_ÄKEY", "XLIKENESS_KEY"],
)  # fmt: skip
def test_no_other_variable_is_read(model, name, monkeypatch):
    monkeypatch.setenv(name.strip() + "_HOST", model.host)
    monkeypatch.setenv(name.strip(), "secret")
    if name == "LIKENESS_KEY\n":  # white space around a name is no harm, inside of it is
        name = "LIKENESS_ KEY"
    with pytest.raises(ValueError, match="is not used: its name must begin with LIKENESS_"):
        model.ask(key_variable=name)
    assert not model.requests


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scene": " "}, "a scene of 0 characters"),
        ({"scene": "x" * 5000}, "a scene of 5000 characters"),
        ({"width": 4}, "use 8 to 8192"),
    ],
)
def test_nothing_is_asked_in_vain(model, options, said):
    with pytest.raises(ValueError, match=said):
        model.ask(**options)
    assert not model.requests
