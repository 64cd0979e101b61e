"""`longcat serve` as a process, asked by OpenAI's own client and by hostile ones."""

import contextlib
import re
import signal
import socket
import subprocess
import sys
import threading

import httpx
import openai
import psutil
import pytest

from longcat.config import load_config
from longcat.interchange import save_huggingface
from longcat.model import LongcatModel
from tests.serve.conftest import TEMPLATE
from tests.waiting import LIMIT_S, wait_until

KEY = "a-key-of-this-test-0123456789"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, byte_tokenizer):
    directory = tmp_path_factory.mktemp("served") / "named-model"
    directory.mkdir()
    model = LongcatModel(load_config("smoke", overrides=["model.vocab_size=259", "corpus.vocabulary_size=259"]).model)
    model.initialize(0)
    save_huggingface(model, directory)
    byte_tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    (directory.parent / "key").write_text(KEY + "\n")
    return directory


@contextlib.contextmanager
def started(folder, *options):
    """A server, and its address."""
    command = [sys.executable, "-m", "longcat.cli", "serve", "--checkpoint", str(folder), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        watch = threading.Timer(LIMIT_S, process.kill)
        watch.start()
        try:
            line = process.stdout.readline()
            found = re.fullmatch(r"named-model at (http://127\.0\.0\.1:\d+)/v1\n", line)
            assert found, (line, process.stderr.read() if process.poll() is not None else "")
            yield process, found[1]
        finally:
            watch.cancel()
            process.kill()


@pytest.fixture(scope="module")
def served(folder):
    with started(folder, "--api-key-file", str(folder.parent / "key")) as found:
        yield found


@pytest.fixture
def client(served):
    with openai.OpenAI(base_url=served[1] + "/v1", api_key=KEY, max_retries=0, timeout=LIMIT_S) as client:
        yield client


@pytest.mark.slow
def test_the_openai_client(client):
    [model] = client.models.list()
    assert model.id == "named-model"
    asked = {"model": model.id, "prompt": "ab", "max_tokens": 6, "temperature": 0}
    whole = client.completions.create(**asked)
    assert whole.usage.completion_tokens == 6 and whole.choices[0].finish_reason == "length"
    stream = client.completions.create(**asked, stream=True)
    assert "".join(piece.choices[0].text for piece in stream) == whole.choices[0].text
    conversation = {"model": model.id, "messages": [{"role": "user", "content": "点一份面"}], "seed": 1, "n": 2}
    chat = client.chat.completions.create(**conversation, max_completion_tokens=5)
    assert [choice.message.role for choice in chat.choices] == ["assistant"] * 2
    texts = ["", ""]
    for piece in client.chat.completions.create(
        **conversation, max_tokens=5, stream=True, stream_options={"include_usage": True}
    ):
        for choice in piece.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in chat.choices]
    assert piece.usage == chat.usage


@pytest.mark.slow
def test_mistakes_are_the_client_s_own_exceptions(client, served):
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt'"):
        client.completions.create(model="gpt", prompt="ab")
    with pytest.raises(openai.BadRequestError, match="positions") as caught:
        client.completions.create(model="named-model", prompt="ab", max_tokens=1000)
    assert caught.value.code == "context_length_exceeded"
    with (
        openai.OpenAI(base_url=served[1] + "/v1", api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()
    with pytest.raises(openai.APIStatusError) as large:
        client.completions.create(model="named-model", prompt="x" * (2 << 20))
    assert large.value.status_code == 413


@pytest.mark.slow
def test_clients_that_hang_or_send_rubbish_hold_up_nobody(client, served):
    process, address = served
    host, port = address.removeprefix("http://").split(":")
    with contextlib.ExitStack() as stack:
        for said in (
            b"",
            b"POST /v1/completions HTTP/1.1\r\nHo",
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{",
            b"\x16\x03\x01\x00rubbish\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
            b"GET /" + b"x" * 70_000,
        ):
            for _ in range(5):
                connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=LIMIT_S))
                with contextlib.suppress(OSError):
                    connection.sendall(said)
        assert client.completions.create(model="named-model", prompt="ab", max_tokens=2).usage.completion_tokens <= 2
    assert process.poll() is None


@pytest.mark.slow
def test_it_listens_on_loopback_only(served):
    connections = psutil.Process(served[0].pid).net_connections("inet")
    assert {one.laddr.ip for one in connections if one.status == psutil.CONN_LISTEN} == {"127.0.0.1"}


@pytest.mark.slow
def test_sigterm_lets_requests_finish_and_takes_no_new_ones(folder):
    with started(folder, "--max-texts", "1") as (process, address):
        asked = {"prompt": "ab", "max_tokens": 250, "n": 8, "stream": True}
        with httpx.stream("POST", address + "/v1/completions", json=asked, timeout=LIMIT_S) as response:
            lines = response.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            health = wait_until(lambda: (r := httpx.get(address + "/health", timeout=60)).status_code == 503 and r)
            assert health.json() == {"status": "stopping"}
            assert httpx.post(address + "/v1/completions", json={"prompt": "ab"}, timeout=60).status_code == 503
            said = [line for line in lines if line]
        assert said[-1] == "data: [DONE]"
        out, err = process.communicate(timeout=LIMIT_S)
        assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.slow
def test_sigterm_without_grace_ends_at_once(folder):
    with started(folder, "--max-texts", "1", "--grace-s", "0") as (process, address):
        asked = {"prompt": "ab", "max_tokens": 250, "n": 60}
        found = []

        def ask():
            found.append(httpx.post(address + "/v1/completions", json=asked, timeout=LIMIT_S))

        thread = threading.Thread(target=ask)
        thread.start()
        wait_until(lambda: "longcat_texts_unfinished 0.0" not in httpx.get(address + "/metrics", timeout=60).text)
        process.send_signal(signal.SIGTERM)
        thread.join(LIMIT_S)
        assert found[0].status_code == 503 and found[0].json()["error"]["code"] == "stopping"
        assert process.wait(LIMIT_S) == 0


def test_mistakes_are_one_line(longcat, folder, tmp_path):
    (tmp_path / "short").write_text("abc")
    (tmp_path / "two").write_text("one-key-of-many-characters another")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for options, words in (
            (["--port", taken.getsockname()[1]], "cannot listen at 127.0.0.1 port"),
            (["--host", "no.such.host.invalid"], "cannot listen at no.such.host.invalid"),
            (["--api-key-file", tmp_path / "none"], "--api-key-file: cannot read"),
            (["--api-key-file", tmp_path / "short"], "16 characters or more"),
            (["--api-key-file", tmp_path / "two"], "one key"),
            (["--port", "0", "--max-length", "1000"], "--max-length 1000: the model has 256 positions"),
        ):
            done = longcat("serve", "--checkpoint", folder, *options)
            assert done.returncode == 2 and words in done.stderr, done.stderr
            assert done.stderr.count("\n") == 1 and KEY not in done.stderr and "abc\n" not in done.stderr
