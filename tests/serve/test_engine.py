"""Clients that go away, a queue that is full, a model that fails, and the end."""

import asyncio

import pytest

from longcat.inference.decoder import Decoder
from longcat.inference.requests import Prompt
from longcat.inference.runner import Runner
from longcat.inference.sampling import Sampling
from longcat.model import LongcatModel
from longcat.serve.engine import FAILING
from tests.serve.test_refusals import ASKED, refused
from tests.waiting import wait_until

LONG = {"prompt": "ab", "max_tokens": 250, "temperature": 1, "seed": 3, "logit_bias": {}}
POISON = 77
"""Token that the failing model cannot read."""


@pytest.fixture
def slow(monkeypatch):
    """Holds the model's steps until `go` is set."""
    import threading

    go, states = threading.Event(), LongcatModel.states

    def held(self, *arguments, **named):
        assert go.wait(300)
        return states(self, *arguments, **named)

    monkeypatch.setattr(LongcatModel, "states", held)
    yield go
    go.set()


@pytest.fixture
def failing(monkeypatch):
    """A model that has no memory left for a batch in which there is the poison."""
    states = LongcatModel.states

    def fails(self, tokens, **named):
        if (tokens == POISON).any():
            raise MemoryError("no memory\nleft")
        return states(self, tokens, **named)

    monkeypatch.setattr(LongcatModel, "states", fails)


def test_a_full_queue_is_said(serving, slow):
    client, engine = serving(texts=1, queue=2)

    async def run():
        waiting = [asyncio.ensure_future(client.ask("POST", "/v1/completions", json=ASKED)) for _ in range(3)]
        while engine.unfinished < 3:
            await asyncio.sleep(0.01)
        turned_away = await client.ask("POST", "/v1/completions", json=ASKED)
        slow.set()
        return turned_away, await asyncio.gather(*waiting)

    turned_away, served = asyncio.run(run())
    refused(turned_away, 429, "3 texts are being made or wait", code="queue_full")
    assert turned_away.headers["retry-after"] == "1"
    assert [response.status_code for response in served] == [200] * 3


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_place(serving, slow, stream):
    client, engine = serving(texts=1)

    async def run():
        gone = asyncio.Event()
        body = iter(
            [
                {
                    "type": "http.request",
                    "body": b'{"prompt": "ab", "max_tokens": 200, "stream": %s}' % str(stream).lower().encode(),
                }
            ]
        )

        async def receive():
            if (message := next(body, None)) is not None:
                return message
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            pass

        scope = {
            "type": "http", "method": "POST", "path": "/v1/completions", "query_string": b"", "http_version": "1.1",
            "headers": [(b"content-type", b"application/json")], "scheme": "http", "server": ("x", 1), "root_path": "",
        }  # fmt: skip
        request = asyncio.ensure_future(client.app(scope, receive, send))
        while not engine.unfinished:
            await asyncio.sleep(0.01)
        gone.set()
        await asyncio.wait_for(request, 300)
        assert engine.unfinished == 0
        slow.set()
        return await client.ask("POST", "/v1/completions", json=ASKED)

    assert asyncio.run(run()).status_code == 200
    wait_until(lambda: engine.running == 0)
    assert "longcat_requests_given_up_total 1.0" in client("GET", "/metrics").text


def test_a_model_that_fails_on_one_text_serves_the_others(serving, failing, opened):
    client, engine = serving(texts=4)
    good = {"prompt": [5, 6], "max_tokens": 12, "temperature": 1, "seed": 4}

    async def run():
        asked = [good, {"prompt": [5, POISON]}, good]
        return await asyncio.gather(*(client.ask("POST", "/v1/completions", json=one) for one in asked))

    first, bad, last = asyncio.run(run())
    error = refused(bad, 500, "the model failed: MemoryError: no memory", code="model_failed")
    assert error["type"] == "server_error"
    [made] = Runner(opened).generate([Prompt([5, 6], Sampling(12, temperature=1.0, seed=4))])
    for response in (first, last):
        assert response.json()["choices"][0]["text"] == made.text
    assert engine.unfinished == 0 and client("GET", "/health").status_code == 200


def test_a_failure_in_a_stream_is_an_event(serving, failing):
    client, _ = serving()
    response = client.post("/v1/completions", {"prompt": [POISON], "stream": True})
    assert '"code": "model_failed"' in response.text and "[DONE]" not in response.text


def test_a_model_that_always_fails_is_ill_until_it_does_not(serving, failing):
    client, _ = serving()
    for _ in range(FAILING):
        refused(client.post("/v1/completions", {"prompt": [POISON]}), 500)
    assert client("GET", "/health").status_code == 503
    assert client.post("/v1/completions", {"prompt": [5], "max_tokens": 1}).status_code == 200
    assert client("GET", "/health").status_code == 200


def test_texts_go_on_where_a_step_failed(opened, monkeypatch):
    """Also where some have been made in part, and where they sample."""
    prompts = [Prompt([5 + n, 9], Sampling(10 + n, temperature=n % 2, seed=n)) for n in range(4)]
    expected = [Runner(opened).generate([prompt])[0] for prompt in prompts]
    states, calls = LongcatModel.states, []

    def fails_once(self, *arguments, **named):
        calls.append(0)
        if len(calls) == 5:
            raise MemoryError
        return states(self, *arguments, **named)

    monkeypatch.setattr(LongcatModel, "states", fails_once)
    decoder = Decoder(opened, survives=True)
    handles = [decoder.add(prompt) for prompt in prompts]
    made = {handle: [] for handle in handles}
    while decoder.waiting or decoder.active:
        for event in decoder.step():
            assert event.error is None
            made[event.handle] += [event.token] if event.token is not None else []
    assert [made[handle] for handle in handles] == [one.tokens for one in expected]


def test_the_end_answers_what_is_left(serving, slow):
    client, engine = serving()

    async def run():
        left = asyncio.ensure_future(client.ask("POST", "/v1/completions", json=LONG))
        while not engine.unfinished:
            await asyncio.sleep(0.01)
        engine.refuse()
        new = await client.ask("POST", "/v1/completions", json=ASKED)
        health = await client.ask("GET", "/health")
        ending = asyncio.ensure_future(asyncio.to_thread(engine.end))
        slow.set()
        await ending
        return new, health, await left

    new, health, left = asyncio.run(run())
    assert health.status_code == 503 and health.json() == {"status": "stopping"}
    for response in (new, left):
        refused(response, 503, "stopping", code="stopping")


def test_a_fault_of_ours_ends_requests_and_not_the_server(serving, monkeypatch):
    client, engine = serving()
    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "step", lambda self: 1 / 0)
        refused(client.post("/v1/completions", ASKED), 500, "ZeroDivisionError")
    assert client.post("/v1/completions", ASKED).status_code == 200
    assert engine.unfinished == 0
