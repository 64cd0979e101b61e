"""What cannot be served is answered in OpenAI's form, and hurts nobody else."""

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longcat.serve import door

KEY = "0123456789abcdef"
ASKED = {"prompt": "ab", "max_tokens": 2, "temperature": 0}
CHAT = {"messages": [{"role": "user", "content": "u"}], "max_tokens": 2}


def refused(response, status, words="", **expected):
    error = response.json()["error"]
    assert response.status_code == status, error
    assert set(error) == {"message", "type", "param", "code"}
    assert words in error["message"] and "\n" not in error["message"]
    assert not re.search(r"function-|constrained|Input should|after validation|instance of", error["message"])
    for name, value in expected.items():
        assert error[name] == value
    return error


@pytest.mark.parametrize(
    "change, words, param",
    [
        ({"temperature": 2.5}, "temperature has to be a number from 0 to 2, not 2.5", "temperature"),
        ({"temperature": -1}, "temperature", "temperature"),
        ({"top_p": 1.5}, "top_p", "top_p"),
        ({"n": 0}, "n has to be a whole number from 1 to 128, not 0", "n"),
        ({"n": 100}, "100 texts in one request, at most 96", None),
        ({"prompt": [""] * 100_000, "n": 128}, "12800000 texts in one request, at most 96", None),
        ({"max_tokens": -1}, "max_tokens has to be a whole number of at least 0, not -1", "max_tokens"),
        ({"prompt": [5] * 257, "max_tokens": 0}, "257 tokens of prompt and 0 new ones are more than the 256", "prompt"),
        ({"prompt": [5], "max_tokens": 256}, "1 token of prompt and 256 new ones are more than the 256", "prompt"),
        ({"max_tokens": 255}, "2 tokens of prompt and 255 new ones are more than the 256 positions", "prompt"),
        ({"prompt": [5] * 256, "max_tokens": None}, "256 tokens of prompt and a new one", "prompt"),
        ({"prompt": [259]}, "no token 259, only 259", "prompt"),
        ({"prompt": [-1]}, "prompt has to be a text, a list of texts, a list of tokens", "prompt"),
        ({"prompt": [True]}, "prompt", "prompt"),
        ({"prompt": []}, "prompt is an empty list", "prompt"),
        ({"prompt": None}, " or a list of such lists, not null", "prompt"),
        ({"prompt": "a\ud800"}, "prompt holds half a character", "prompt"),
        ({"prompt": ["a", "\udfff"]}, "holds half a character", "prompt"),
        ({"stop": "\ud800"}, "stop holds half a character", "stop"),
        (
            {"stop": ""},
            'stop has to be a text of 1 to 1,000 characters, or a list of at most 16 such texts, not ""',
            "stop",
        ),
        ({"stop": ["x"] * 17}, "a list of 17", "stop"),
        ({"logprobs": 1}, "logprobs", "logprobs"),
        ({"suffix": "x"}, "suffix", "suffix"),
        ({"best_of": 2}, "best_of", "best_of"),
        ({"presence_penalty": 1}, "presence_penalty", "presence_penalty"),
        ({"logit_bias": {"5": 1}}, 'has to be an empty object, as no token is favoured, not {"5": 1}', "logit_bias"),
        ({"unheard_of": 1}, "unheard_of is not known here", "unheard_of"),
        ({"un\nheard\x1b of": 1}, "un heard\\x1b of is not known here", "un heard\\x1b of"),
        ({"\ud800": 1}, "the body: the name of a field holds half a character", None),
        ({"stream_options": {"\ud800": 1}}, "stream_options holds half a character", "stream_options"),
        ({"u" * 9000: 1}, "uuu… is not known here", "u" * 80 + "…"),
        (
            {"stream_options": {"include_usage": 7}},
            "stream_options.include_usage has to be true or false, not 7",
            "stream_options",
        ),
        ({"stream_options": {"more": 1}}, "stream_options.more is not known here", "stream_options"),
        (
            {"stop": [[[]]], "user": {"a": 1}, "n": "\u2028{what}"},
            'n has to be a whole number from 1 to 128, not "\\u2028{what}"',
            "n",
        ),
        ({"seed": 2**63}, "seed has to be a whole number from -2^63 to 2^63 - 1, not 9223372036854775808", "seed"),
    ],
)
def test_values_that_make_no_sense(serving, change, words, param):
    client, engine = serving()
    refused(client.post("/v1/completions", ASKED | change), 400, words, param=param)
    assert engine.unfinished == 0


@pytest.mark.parametrize(
    "change, words",
    [
        ({"messages": []}, "messages has to be a list of at least one message, not []"),
        ({"messages": [7]}, "messages[0] has to be an object with role and content, not 7"),
        ({"messages": [{}]}, "messages[0].role is missing; messages[0].content is missing"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content has to be a text or a list of parts"),
        ({"messages": [{"role": "user", "content": "u", "tool_calls": [7]}]}, "no tools are called, not [7]"),
        ({"max_tokens": 0}, "max_tokens has to be a whole number of at least 1, not 0"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "the chat template refuses the messages: no tools"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            'parts {"type": "text", "text": "..."}, the only ones read, not a list of 1',
        ),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "holds half a character"),
        ({"messages": [{"role": "\ud800", "content": "u"}]}, "holds half a character"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "\ud800"}]}]}, "holds half a character"),
        ({"tools": [{"type": "function"}]}, "tools has to be an empty list, as no tools are called, not a list of 1"),
        ({"response_format": {"type": "json_object"}}, 'the only form of answers, not {"type": "json_object"}'),
        ({"logprobs": True}, "logprobs"),
    ],
)
def test_conversations_that_cannot_be_answered(serving, change, words):
    client, _ = serving()
    refused(client.post("/v1/chat/completions", CHAT | change), 400, words)


def test_a_model_without_a_template_does_not_chat(serving):
    client, _ = serving(template=False)
    refused(client.post("/v1/chat/completions", CHAT), 400, "m has no chat template", code="no_chat_template")
    assert client.post("/v1/completions", ASKED).status_code == 200


def test_what_is_not_there(serving):
    client, _ = serving()
    refused(client.post("/v1/completions", ASKED | {"model": "gpt"}), 404, "only 'm'", code="model_not_found")
    refused(client("GET", "/v1/models/gpt"), 404, "only 'm'", code="model_not_found")
    refused(client("GET", "/v1/nothing"), 404, "/v1/nothing")
    refused(client("GET", "/v1/completions"), 405, "does not answer GET")


def test_bodies_that_are_no_json(serving):
    client, _ = serving()
    headers = {"Content-Type": "application/json"}
    for body in (b"{", b"\xff\xfe", b"[" * 100_000, b'{"seed": ' + b"9" * 5000 + b"}", b"", b"[]", b"7", b"null"):
        refused(client("POST", "/v1/completions", content=body, headers=headers), 400)
    refused(client("POST", "/v1/completions", content=json.dumps(ASKED)), 400, "Content-Type: application/json")


def test_a_body_that_is_too_large(serving):
    client, _ = serving(settings={"most_body_bytes": 1000})
    refused(client.post("/v1/completions", ASKED | {"user": "x" * 2000}), 413, "1,000 bytes", code="body_too_large")

    async def parts():
        for _ in range(30):
            yield b" " * 100

    refused(client("POST", "/v1/completions", content=parts()), 413)
    assert client.post("/v1/completions", ASKED).status_code == 200


def test_a_body_that_does_not_come(serving, monkeypatch):
    import asyncio

    monkeypatch.setattr(door, "BODY_S", 0.05)
    client, _ = serving()

    async def never():
        yield b"{"
        await asyncio.sleep(60)

    refused(client("POST", "/v1/completions", content=never()), 408, "within 0.05 s")


def test_who_has_no_key_is_not_let_in(serving):
    client, _ = serving(settings={"key": KEY})
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}, {"Authorization": "Bearer é"}):
        response = client.post("/v1/completions", ASKED, headers={k: v.encode() for k, v in headers.items()})
        refused(response, 401, "wants a key", code="invalid_api_key")
        assert KEY not in response.text
    for path in ("/v1/models", "/metrics", "/openapi.json"):
        refused(client("GET", path), 401)
    assert client("GET", "/health").json() == {"status": "ok"}
    assert client("GET", "/v1/models", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
fields = st.sampled_from(
    [
        "prompt",
        "messages",
        "max_tokens",
        "n",
        "stop",
        "seed",
        "temperature",
        "stream",
        "stream_options",
        "top_k",
        "model",
    ]
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(["completions", "chat/completions"]), change=st.dictionaries(fields, json_values, max_size=3)
)
def test_rubbish_is_a_mistake_of_the_client(server, path, change):
    client, _ = server
    base = {"prompt": "ab"} if path == "completions" else {"messages": CHAT["messages"]}
    body = json.dumps({**base, "max_tokens": 1, **change})
    response = client("POST", f"/v1/{path}", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in (200, 400, 404), response.text
    if response.status_code != 200:
        refused(response, response.status_code)


@pytest.fixture
def server(serving):
    return serving()
