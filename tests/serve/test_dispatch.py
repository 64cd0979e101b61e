"""Hours of orders that clients send: the figures of `longcat dispatch`, and what cannot be dispatched."""

import asyncio
import json
import sys

import psutil
import pytest

from longcat.evaluation.local_services import apart
from longcat.evaluation.local_services.comparison import compare
from longcat.evaluation.local_services.dispatcher import ModelDispatcher
from longcat.evaluation.local_services.preference import preference_of
from longcat.inference.runner import Runner
from longcat.local_services.city import make_scene
from tests.serve.test_refusals import ASKED, refused
from tests.waiting import LIMIT_S, wait_until

SCENE = make_scene(11, start=720, minutes=20, couriers=3, orders_per_hour=14, side=8)
ORDERS = SCENE.to_json()
PATH = "/v1/dispatch"
COMPARISON = "a-comparison"
"""Word that programs in the place of the one that compares are known by."""


def changed(change):
    document = json.loads(json.dumps(ORDERS))
    change(document)
    return document


def child(monkeypatch, code):
    """Put a program in the place of the one that compares."""
    monkeypatch.setattr(apart, "command", lambda parent: [sys.executable, "-c", code, COMPARISON])


def children():
    """Comparisons that run; other tests of this process have children, too."""
    return [one for one in psutil.Process().children() if COMPARISON in one.cmdline()]


@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_figures_are_those_of_the_command(serving, opened, language):
    client, engine = serving()
    expected = compare(SCENE, ModelDispatcher(preference_of(Runner(opened)), SCENE, language))
    assert expected.hindsight.is_proven and len(SCENE.orders) > 2
    response = client.post(f"{PATH}?language={language}", ORDERS)
    assert response.status_code == 200, response.text
    assert response.json() == json.loads(json.dumps(expected.to_json()))
    assert list(response.json()["dispatchers"]) == ["model", "greedy", "exact"]
    assert engine.unfinished == 0
    numbers = client("GET", "/metrics").text
    assert f'longcat_requests_total{{path="{PATH}",status="200"}} 1.0' in numbers
    assert f"longcat_dispatch_decisions_total {float(len(SCENE.orders))}" in numbers
    assert "longcat_request_seconds_count 1.0" in numbers


def test_chinese_is_the_default(serving):
    client, _ = serving()
    assert client.post(PATH, ORDERS).json() == client.post(f"{PATH}?language=zh", ORDERS).json()


def test_texts_go_on_between_two_decisions(serving):
    client, _ = serving()
    alone = client.post("/v1/completions", ASKED).json()["choices"]

    async def run():
        asked = [client.ask("POST", PATH, json=ORDERS), client.ask("POST", "/v1/completions", json=ASKED)]
        return await asyncio.gather(*asked)

    dispatched, text = asyncio.run(run())
    assert dispatched.status_code == text.status_code == 200
    assert text.json()["choices"] == alone


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["orders"][1].update(due=d["orders"][1]["ready"] - 1), "orders[1] (id 'o2').due: "),
        (lambda d: d["orders"][1].update(ready=d["orders"][1]["placed"] - 1), "orders[1] (id 'o2').ready: "),
        (lambda d: d["orders"][1].update(merchant="nobody"), "orders[1] (id 'o2').merchant: 'nobody' is none of"),
        (lambda d: d["orders"][1].update(pickup={"x": 0, "y": 0}), "orders[1] (id 'o2').pickup: differs from"),
        (lambda d: d["orders"][1].update(dropoff={"x": 9, "y": 0}), "orders[1] (id 'o2').dropoff: (9, 0) is outside"),
        (lambda d: d["orders"][1].update(id="o1"), "orders[1].id: 'o1' is that of orders[0], too"),
        (lambda d: d["orders"][1].update(placed="noon"), "orders[1] (id 'o2').placed: expected a whole number"),
        (lambda d: d["orders"][1].update(placed=1.5), "orders[1] (id 'o2').placed: expected a whole number"),
        (lambda d: d["orders"][1].update(due=10**9), "orders[1] (id 'o2').due: 1000000000 is more than"),
        (lambda d: d["orders"][1].pop("due"), "orders[1] (id 'o2'): field 'due' is missing"),
        (lambda d: d["orders"][1].update(tip=3), "orders[1] (id 'o2'): unknown field 'tip'"),
        (lambda d: d["orders"][1].update(id="x\ud800"), "orders[1] (id 'x\\ud800').id: 'x\\ud800' holds half a"),
        (lambda d: d["orders"][1].update(id="x" * 9000), None),
        (lambda d: d["orders"][1].update(placed="x" * 9000), "orders[1] (id 'o2').placed: expected a whole number"),
        (lambda d: d["orders"][1].update(placed=[[[[]]]]), "found a list"),
        (lambda d: d.update({"\ud800": 1}), "unknown field '\\ud800'"),
        (lambda d: d.update(couriers=[]), "couriers: there is none who could carry order 'o1'"),
        (lambda d: d["couriers"][1].update(capacity=0), "couriers[1] (id 'c2').capacity"),
        (lambda d: d.update(orders=[]), "orders: there is none"),
        (lambda d: d.update(orders=None), "orders: expected a list, found NoneType"),
        (lambda d: d.update(orders=d["orders"] * 40), "that of orders[0], too"),
        (
            lambda d: d.update(couriers=[d["couriers"][0] | {"id": f"c{n}"} for n in range(101)]),
            "there are 101, and at",
        ),
        (lambda d: d.update(orders=[d["orders"][0] | {"id": f"o{n}"} for n in range(101)]), "orders: there are 101"),
    ],
)
def test_orders_that_are_impossible_are_one_sentence(serving, monkeypatch, change, words):
    child(monkeypatch, "import sys; sys.stdin.readline(); print('{\"figures\": 1}')")
    client, engine = serving()
    headers = {"Content-Type": "application/json"}
    response = client("POST", PATH, content=json.dumps(changed(change)), headers=headers)
    if words is None:  # long, and possible
        assert response.status_code == 200
        return
    error = refused(response, 400, words)
    assert error["message"].startswith("the body: ") and len(error["message"]) < 500
    assert engine.unfinished == 0


def test_bodies_that_are_no_orders(serving):
    client, _ = serving(settings={"most_body_bytes": 10_000})
    headers = {"Content-Type": "application/json"}
    for body in (b"{", b"\xff", b"[]", b"7", b"", b"[" * 9000, b'{"orders": ' + b"[" * 9000):
        refused(client("POST", PATH, content=body, headers=headers), 400)
    refused(client("POST", PATH, content=json.dumps(ORDERS)), 400, "Content-Type: application/json")
    refused(client.post(PATH, ORDERS | {"note": "x" * 20_000}), 413, "10,000 bytes", code="body_too_large")
    refused(client.post(f"{PATH}?language=fr", ORDERS), 400, 'language has to be zh or en, not "fr"', param="language")
    refused(client.post(f"{PATH}?langauge=en", ORDERS), 400, "langauge is not known here")
    refused(client("GET", PATH), 405)


def test_the_key_is_wanted_here_too(serving):
    client, _ = serving(settings={"key": "0123456789abcdef"})
    refused(client.post(PATH, ORDERS), 401)


def test_one_that_hangs_is_ended_in_time(serving, monkeypatch):
    child(monkeypatch, "import time; time.sleep(600)")
    client, engine = serving(settings={"dispatch_s": 0.3})
    refused(client.post(PATH, ORDERS), 400, "did not end within 0.3 s", code="time_limit")
    assert engine.unfinished == 0 and not children()


def test_one_that_dies_is_a_fault_of_the_server(serving, monkeypatch):
    child(monkeypatch, "raise SystemExit(3)")
    client, engine = serving()
    refused(client.post(PATH, ORDERS), 500, "without a result, with code 3", code="failed")
    assert engine.unfinished == 0 and client("GET", "/health").status_code == 200


def test_a_model_that_fails_fails_the_dispatch_alone(serving, monkeypatch):
    client, engine = serving()
    with monkeypatch.context() as patch:
        patch.setattr(Runner, "likelihoods", lambda *_: 1 / 0)
        refused(client.post(PATH, ORDERS), 500, "the model failed: ZeroDivisionError", code="model_failed")
    assert client.post(PATH, ORDERS).status_code == 200
    assert engine.unfinished == 0


def test_more_than_can_be_computed_at_a_time_wait_for_nobody(serving, monkeypatch):
    child(monkeypatch, "import time; time.sleep(600)")
    client, engine = serving()

    async def run():
        waiting = [asyncio.ensure_future(client.ask("POST", PATH, json=ORDERS)) for _ in range(2)]
        async with asyncio.timeout(LIMIT_S):
            while len(children()) < 2:
                await asyncio.sleep(0.01)
        turned_away = await client.ask("POST", PATH, json=ORDERS)
        await asyncio.to_thread(engine.end)
        return turned_away, await asyncio.gather(*waiting)

    turned_away, ended = asyncio.run(run())
    refused(turned_away, 429, "2 hours are being dispatched", code="queue_full")
    for response in ended:
        refused(response, 503, "stopping", code="stopping")
    assert engine.unfinished == 0 and not children()


def test_a_client_that_goes_away_ends_the_comparison(serving, monkeypatch):
    child(monkeypatch, "import time; time.sleep(600)")
    client, engine = serving()

    async def run():
        request = asyncio.ensure_future(client.app(scope, receive, send))
        async with asyncio.timeout(LIMIT_S):
            while not children():
                await asyncio.sleep(0.01)
            gone.set()
            await request

    gone = asyncio.Event()
    body = [{"type": "http.request", "body": json.dumps(ORDERS).encode()}]

    async def receive():
        if body:
            return body.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        pass

    scope = {
        "type": "http", "method": "POST", "path": PATH, "query_string": b"", "http_version": "1.1",
        "headers": [(b"content-type", b"application/json")], "scheme": "http", "server": ("x", 1), "root_path": "",
    }  # fmt: skip
    asyncio.run(run())
    wait_until(lambda: engine.unfinished == 0)
    assert not children()
    assert "longcat_requests_given_up_total 1.0" in client("GET", "/metrics").text
