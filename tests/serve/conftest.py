import asyncio
import contextlib
import json
from dataclasses import replace

import httpx
import pytest

from longcat.config import load_config
from longcat.inference.opening import OpenCheckpoint
from longcat.model import LongcatModel
from longcat.serve.app import Settings, build
from longcat.serve.engine import Engine
from tests.inference.conftest import byte_tokenizer

__all__ = ["byte_tokenizer"]

TEMPLATE = """{% for message in messages %}{% if message.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}\
<{{ message.role }}>{{ message.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"""


@pytest.fixture(scope="session")
def opened(byte_tokenizer, tmp_path_factory):
    """A model whose random weights are large enough that its texts differ."""
    overrides = ["corpus.vocabulary_size=259", "model.vocab_size=259", "model.initializer_range=0.2"]
    model = LongcatModel(load_config("smoke", overrides=[*overrides, "model.eos_token_id=2"]).model)
    model.initialize(0)
    return OpenCheckpoint(tmp_path_factory.mktemp("none"), model.eval(), byte_tokenizer, 2, TEMPLATE, "fp32")


class Client:
    """Asks an application in this process."""

    def __init__(self, app):
        self.app = app

    async def ask(self, method, path, **named):
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=300) as client:
            return await client.request(method, path, **named)

    def __call__(self, method, path, **named):
        return asyncio.run(self.ask(method, path, **named))

    def post(self, path, content, headers=None):
        headers = {"Content-Type": "application/json"} | (headers or {})
        return self("POST", path, content=json.dumps(content), headers=headers)


@pytest.fixture
def serving(opened):
    """Starts a server in this process: `client, engine = serving(texts=2, settings={"key": ...})`."""
    with contextlib.ExitStack() as stack:

        def start(*, template=True, settings=(), **limits):
            checkpoint = opened if template else replace(opened, chat_template=None)
            engine = Engine(checkpoint, **limits)
            engine.start()
            stack.callback(engine.end)
            chosen = Settings("m", opened.window, **dict(settings))
            return Client(build(checkpoint, engine, chosen)), engine

        yield start
