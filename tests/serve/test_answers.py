"""What is served is what the model says, in OpenAI's form."""

import asyncio
import json

import pytest

from longcat.inference.requests import Prompt
from longcat.inference.runner import Runner
from longcat.inference.sampling import Sampling
from tests.serve.conftest import TEMPLATE


def said(opened, text, count, **sampling):
    [made] = Runner(opened).generate([Prompt(opened.encode(text), Sampling(count, **sampling))])
    return made


def events(response):
    lines = [line for line in response.text.split("\n\n") if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_a_completion_is_what_generate_makes(serving, opened):
    client, _ = serving()
    made = said(opened, "one order", 20)
    answer = client.post(
        "/v1/completions", {"model": "m", "prompt": "one order", "max_tokens": 20, "temperature": 0}
    ).json()
    assert answer["object"] == "text_completion" and answer["model"] == "m"
    [choice] = answer["choices"]
    assert choice["text"] == made.text
    assert choice["finish_reason"] == ("length" if made.reason == "length" else "stop")
    assert answer["usage"] == {
        "prompt_tokens": 9,
        "completion_tokens": len(made.tokens),
        "total_tokens": 9 + len(made.tokens),
    }


def test_several_prompts_and_choices_keep_their_order(serving, opened):
    client, _ = serving(texts=3)
    asked = {"prompt": ["ab", "cde"], "n": 2, "max_tokens": 8, "temperature": 1.0, "seed": 5}
    found = client.post("/v1/completions", asked).json()
    expected = [said(opened, text, 8, temperature=1.0, seed=seed).text for text in ("ab", "cde") for seed in (5, 6)]
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2, 3]
    assert [choice["text"] for choice in found["choices"]] == expected
    assert found["usage"]["prompt_tokens"] == 5


def test_tokens_are_a_prompt_and_echo_repeats_it(serving, opened):
    client, _ = serving()
    asked = {"prompt": opened.encode("ab"), "max_tokens": 4, "temperature": 0, "echo": True}
    whole = client.post("/v1/completions", asked).json()["choices"][0]["text"]
    assert whole == "ab" + said(opened, "ab", 4).text
    pieces = events(client.post("/v1/completions", {**asked, "prompt": [asked["prompt"]], "stream": True}))
    assert "".join(piece["choices"][0]["text"] for piece in pieces) == whole


def test_a_stream_says_the_same(serving, opened):
    client, _ = serving()
    made = said(opened, "ab", 30)
    stop = made.text[8:10]
    asked = {"prompt": "ab", "max_tokens": 30, "temperature": 0, "stop": [stop, "never"]}
    whole = client.post("/v1/completions", asked).json()
    response = client.post("/v1/completions", {**asked, "stream": True, "stream_options": {"include_usage": True}})
    assert response.headers["content-type"].startswith("text/event-stream")
    *pieces, usage = events(response)
    text = "".join(piece["choices"][0]["text"] for piece in pieces)
    assert text == whole["choices"][0]["text"] == made.text[: made.text.index(stop)]
    assert pieces[-1]["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == [] and usage["usage"] == whole["usage"]


def test_a_conversation_is_written_by_the_template(serving, opened):
    client, _ = serving()
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "u"}]}]
    asked = {"messages": messages, "max_completion_tokens": 12, "temperature": 0}
    answer = client.post("/v1/chat/completions", asked).json()
    made = said(opened, "<system>s<user>u<assistant>", 12)
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": made.text, "refusal": None}
    first, *pieces = events(client.post("/v1/chat/completions", {**asked, "stream": True}))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(piece["choices"][0]["delta"].get("content", "") for piece in pieces) == made.text
    assert "<assistant>" in TEMPLATE


def test_without_a_number_of_tokens_there_is_a_default_that_fits(serving, opened):
    client, _ = serving(settings={"chat_tokens": 7})
    answer = client.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "u"}], "temperature": 0})
    assert answer.json()["usage"]["completion_tokens"] <= 7
    long = client.post("/v1/completions", {"prompt": [5] * (opened.window - 3), "temperature": 0}).json()
    assert long["usage"]["completion_tokens"] <= 3


def test_a_seed_is_repeated_and_without_one_texts_differ(serving):
    client, _ = serving()

    def ask(**more):
        return client.post("/v1/completions", {"prompt": "ab", "max_tokens": 24, **more}).json()["choices"][0]["text"]

    assert ask(seed=7) == ask(seed=7) != ask(seed=8)
    assert len({ask(), ask(), ask()}) > 1


def test_many_at_once_get_what_each_gets_alone(serving, opened):
    client, engine = serving(texts=3)
    asked = [
        {"prompt": f"order {number}", "max_tokens": 6 + number, "temperature": 1, "seed": number} for number in range(9)
    ]

    async def all_at_once():
        return await asyncio.gather(*(client.ask("POST", "/v1/completions", json=one) for one in asked))

    for number, response in enumerate(asyncio.run(all_at_once())):
        made = said(opened, f"order {number}", 6 + number, temperature=1.0, seed=number)
        assert response.json()["choices"][0]["text"] == made.text
    assert engine.unfinished == 0


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/m"])
def test_models(serving, opened, path):
    client, _ = serving()
    found = client("GET", path).json()
    [model] = found.get("data", [found])
    assert model["id"] == "m" and model["object"] == "model" and model["max_model_len"] == opened.window


def test_numbers_for_prometheus(serving):
    client, _ = serving()
    client.post("/v1/completions", {"prompt": "ab", "max_tokens": 5, "temperature": 0})
    client("GET", "/nowhere")
    text = client("GET", "/metrics").text
    assert 'longcat_requests_total{path="/v1/completions",status="200"} 1.0' in text
    assert 'longcat_requests_total{path="other",status="404"} 1.0' in text
    assert "longcat_prompt_tokens_total 2.0" in text
    assert "longcat_request_seconds_count 1.0" in text
    assert "longcat_texts_unfinished 0.0" in text


NULL = [
    "n",
    "temperature",
    "top_p",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "max_tokens",
    "user",
    "metadata",
    "store",
]
NULL += ["logprobs", "logit_bias", "frequency_penalty", "presence_penalty", "service_tier", "prompt_cache_key"]
NULL_COMPLETION = ["echo", "best_of", "suffix"]
NULL_CHAT = ["max_completion_tokens", "response_format", "tools", "tool_choice", "parallel_tool_calls", "functions"]
NULL_CHAT += ["function_call", "top_logprobs", "modalities", "audio", "prediction", "reasoning_effort", "verbosity"]
NULL_CHAT += ["web_search_options"]


@pytest.mark.parametrize("seeded", [{"seed": 3}, {"temperature": 0}])
def test_null_is_the_default(serving, seeded):
    client, _ = serving(settings={"chat_tokens": 6})
    chat = {"messages": [{"role": "user", "content": "u"}]}
    for path, asked, more in (
        ("completions", {"prompt": "ab"}, NULL_COMPLETION),
        ("chat/completions", chat, NULL_CHAT),
    ):
        plain, null = (
            client.post(f"/v1/{path}", body | seeded) for body in (asked, asked | dict.fromkeys([*NULL, *more]))
        )
        assert null.status_code == plain.status_code == 200, null.text
        assert null.json()["choices"] == plain.json()["choices"]
        assert null.json()["usage"] == plain.json()["usage"]


def test_values_that_ask_for_nothing_are_accepted(serving):
    client, _ = serving()
    chat = {"messages": [{"role": "user", "content": "u"}], "temperature": 0, "max_tokens": 4}
    nothing = {"presence_penalty": 0.0, "frequency_penalty": 0, "tools": [], "tool_choice": "auto", "logprobs": False}
    nothing |= {"response_format": {"type": "text"}, "modalities": ["text"], "logit_bias": {}}
    plain, asked = (client.post("/v1/chat/completions", body).json() for body in (chat, chat | nothing))
    assert asked["choices"] == plain["choices"]
    message = plain["choices"][0]["message"]
    given_back = chat | {"messages": [*chat["messages"], message, {"role": "user", "content": "v"}]}
    assert client.post("/v1/chat/completions", given_back).status_code == 200


@pytest.mark.parametrize("echo", [True, False])
def test_no_tokens_are_the_prompt_alone(serving, opened, echo):
    client, engine = serving()
    asked = {"prompt": [opened.encode("ab"), opened.encode("cde")], "n": 2, "max_tokens": 0, "echo": echo}
    answer = client.post("/v1/completions", asked).json()
    expected = ["ab", "ab", "cde", "cde"] if echo else [""] * 4
    assert [choice["text"] for choice in answer["choices"]] == expected
    assert {choice["finish_reason"] for choice in answer["choices"]} == {"length"}
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5}
    pieces = events(client.post("/v1/completions", asked | {"stream": True}))
    texts = [""] * 4
    for piece in pieces:
        texts[piece["choices"][0]["index"]] += piece["choices"][0]["text"]
    assert texts == expected
    assert client.post("/v1/completions", asked | {"prompt": [5] * opened.window}).status_code == 200
    assert engine.unfinished == 0
