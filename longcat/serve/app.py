"""The paths that are served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Body, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from longcat.inference.opening import OpenCheckpoint
from longcat.inference.requests import Prompt
from longcat.serve.accepting import sentence, shown_name
from longcat.serve.answers import ALIVE, DONE, Answer, Text, event
from longcat.serve.asking import Asker
from longcat.serve.dispatching import Dispatching
from longcat.serve.door import Door
from longcat.serve.engine import Engine, Job, without_tokens
from longcat.serve.failure import ApiError
from longcat.serve.metrics import Metrics
from longcat.serve.protocol import ChatRequest, CompletionRequest, DispatchQuery
from longcat.serve.streaming import EventStream, unless_gone

PATHS = {"/health", "/metrics", "/v1/models", "/v1/completions", "/v1/chat/completions", "/v1/dispatch"}


@dataclass(frozen=True)
class Settings:
    """What clients are let do."""

    name: str
    """Of the model."""
    window: int
    """Most tokens of a prompt and its continuation."""
    chat_tokens: int = 512
    """Most new tokens of an answer whose request names no number."""
    most_body_bytes: int = 1 << 20
    most_orders: int = 100
    """Of an hour that is dispatched; of couriers, too."""
    dispatch_s: float = 60.0
    """Seconds that a dispatch may take."""
    key: str | None = None
    """That clients have to show."""


def build(checkpoint: OpenCheckpoint, engine: Engine, settings: Settings) -> ASGIApp:
    """Return the application, which asks an engine that somebody else starts and ends."""
    app = FastAPI(title="longcat serve", docs_url=None, redoc_url=None)
    asker = Asker(checkpoint, name=settings.name, window=settings.window, chat_tokens=settings.chat_tokens)
    metrics = Metrics(engine)
    desk = _Desk(engine, metrics, settings.name)
    dispatching = Dispatching(checkpoint, engine, metrics, most=settings.most_orders, seconds=settings.dispatch_s)
    model = {"id": settings.name, "object": "model", "created": int(time.time()), "owned_by": "longcat"}
    model |= {"max_model_len": settings.window}
    _explain(app)

    @app.get("/health")
    async def health() -> JSONResponse:
        ill = "stopping" if not engine.accepts else "the model fails" if engine.ill else None
        return JSONResponse({"status": ill or "ok"}, 503 if ill else 200)

    @app.get("/metrics")
    async def numbers() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models")
    async def models() -> JSONResponse:
        return JSONResponse({"object": "list", "data": [model]})

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> JSONResponse:
        if name != settings.name:
            raise ApiError(404, f"there is no model {name!r}, only {settings.name!r}", code="model_not_found")
        return JSONResponse(model)

    @app.post("/v1/completions")
    async def completions(request: Request, asked: CompletionRequest) -> Response:
        engine.allow(len(asked.prompts) * asked.n)  # before any work
        prompts = await asyncio.to_thread(asker.completion, asked)
        prefixes = [""] * len(prompts)
        if asked.echo:
            prefixes = [text for prompt in asked.prompts for text in [asker.text(prompt)] * asked.n]
        return await desk.serve(request, asked, prompts, prefixes)

    @app.post("/v1/chat/completions")
    async def chat(request: Request, asked: ChatRequest) -> Response:
        engine.allow(asked.n)
        prompts = await asyncio.to_thread(asker.chat, asked)
        return await desk.serve(request, asked, prompts, [""] * len(prompts))

    @app.post("/v1/dispatch")
    async def dispatch(
        request: Request, orders: Annotated[dict[str, Any], Body()], asked: Annotated[DispatchQuery, Query()]
    ) -> Response:
        found = await dispatching.answer(request.receive, orders, asked.language)
        return Response(status_code=204) if found is None else JSONResponse(found)

    return Door(app, metrics=metrics, paths=PATHS, key=settings.key, most_bytes=settings.most_body_bytes)


class _Desk:
    """Has prompts answered."""

    ALIVE_S = 15.0
    """Seconds without a token after which a stream says that it is alive."""

    def __init__(self, engine: Engine, metrics: Metrics, name: str) -> None:
        self._engine, self._metrics, self._name = engine, metrics, name

    async def serve(
        self,
        request: Request,
        asked: CompletionRequest | ChatRequest,
        prompts: Sequence[Prompt],
        prefixes: Sequence[str],
    ) -> Response:
        began = time.perf_counter()
        job = without_tokens(prompts) if asked.max_tokens == 0 else self._engine.submit(prompts)
        # a prompt that has several texts is one prompt
        prompt_tokens = sum(len(prompt.tokens) for prompt in prompts[:: asked.n])
        self._metrics.prompt_tokens.inc(prompt_tokens)
        answer = Answer(self._name, isinstance(asked, ChatRequest), prompt_tokens, prefixes)

        def at_end(complete: bool) -> None:
            self._engine.leave(job)
            if complete:
                self._metrics.duration.observe(time.perf_counter() - began)
            else:
                self._metrics.given_up.inc()

        if asked.stream:
            wants_usage = asked.stream_options is not None and asked.stream_options.include_usage
            return EventStream(self._events(job, answer, began, wants_usage), at_end)
        texts = None
        try:
            texts = await unless_gone(request.receive, self._collect(job, answer, began))
        finally:
            at_end(texts is not None)
        return Response(status_code=204) if texts is None else JSONResponse(answer.whole(texts))

    async def _collect(self, job: Job, answer: Answer, began: float) -> list[Text]:
        texts = [Text() for _ in job.prompts]
        async for piece in job.pieces(self.ALIVE_S):
            if piece is None:
                continue
            if piece.failure is not None:
                raise piece.failure
            self._count(answer, piece.tokens, began)
            texts[piece.index].shown += piece.text
            texts[piece.index].finished = piece.finished
        return texts

    async def _events(self, job: Job, answer: Answer, began: float, wants_usage: bool) -> AsyncIterator[bytes]:
        for index in range(len(job.prompts)):
            if (first := answer.first(index)) is not None:
                yield event(first)
        async for piece in job.pieces(self.ALIVE_S):
            if piece is None:
                yield ALIVE
                continue
            if piece.failure is not None:
                yield event(piece.failure.body)
                return
            self._count(answer, piece.tokens, began)
            if piece.text or piece.finished:
                yield event(answer.piece(piece.index, piece.text, piece.finished))
        if wants_usage:
            yield event(answer.last())
        yield DONE

    def _count(self, answer: Answer, tokens: int, began: float) -> None:
        if tokens and not answer.made_tokens:
            self._metrics.first_token.observe(time.perf_counter() - began)
        answer.made_tokens += tokens
        self._metrics.made_tokens.inc(tokens)


def _explain(app: FastAPI) -> None:
    """Have mistakes answered in the form of OpenAI's errors."""

    @app.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return _invalid(error).response()

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 400:
            return ApiError(400, "the body is no JSON that can be read").response()
        path = request.url.path
        said = {404: f"there is no path {path}", 405: f"{path} does not answer {request.method}"}
        message = said.get(error.status_code, str(error.detail))
        return ApiError(error.status_code, message, headers=error.headers).response()

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> JSONResponse:
        return ApiError(500, f"{type(error).__name__} in the server").response()


def _invalid(error: RequestValidationError) -> ApiError:
    found = []
    for one in error.errors():
        place = one["loc"][1:]  # after the body or the address
        if one["type"] == "json_invalid":
            return ApiError(400, f"the body is no JSON: {one['ctx']['error']} at character {place[0]}")
        if not place and one["type"] == "string_unicode":
            return ApiError(400, "the body: the name of a field holds half a character, which is no Unicode")
        if not place:
            return ApiError(400, "the body has to be a JSON object, with Content-Type: application/json")
        found.append((shown_name(place[0]), sentence(place, one["type"], one["msg"])))
    message = "; ".join(text for _, text in found[:4])[:1000]
    return ApiError(400, message, field=found[0][0])
