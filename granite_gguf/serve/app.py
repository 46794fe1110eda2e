"""The service as an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp

from granite_gguf._version import __version__
from granite_gguf.errors import GraniteError
from granite_gguf.serve import page
from granite_gguf.serve.desk import Desk
from granite_gguf.serve.faults import ApiError, told
from granite_gguf.serve.form import Fields, Inference, Transcription, Translation
from granite_gguf.serve.guard import Guard
from granite_gguf.serve.metrics import Metrics
from granite_gguf.serve.models import Models
from granite_gguf.serve.ready import Readiness
from granite_gguf.serve.realtime import Session
from granite_gguf.serve.settings import Settings

_TAGS = "transcription"


def create_app(models: Models, settings: Settings, ready: Readiness | None = None) -> ASGIApp:
    """A service of some models.

    Args:
        models: transcribe.
        settings: what is allowed.
        ready: tells whether it would answer, to others as well; by default one of its own.
    """
    metrics = Metrics(models.passes)
    ready = ready or Readiness(models)
    desk = Desk(models, settings, metrics, ready.progress)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        ready.begin()
        yield
        await ready.end()
        await models.close()

    app = FastAPI(
        title="granite-gguf",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        description="Speech to text, in OpenAI's form. Live speech is at the WebSocket "
        "/v1/realtime, in the events of OpenAI's transcription sessions.",
    )
    _tell_errors(app)

    app.include_router(page.router)

    @app.post("/v1/audio/transcriptions", tags=[_TAGS], openapi_extra=_body(Transcription))
    async def transcriptions(request: Request) -> Response:
        """A recording's text."""
        return await desk.serve(request, Transcription)

    @app.post("/v1/audio/translations", tags=[_TAGS], openapi_extra=_body(Translation))
    async def translations(request: Request) -> Response:
        """A recording's text in English, where a model translates."""
        return await desk.serve(request, Translation)

    @app.post("/inference", tags=[_TAGS], openapi_extra=_body(Inference))
    async def inference(request: Request) -> Response:
        """The same for clients of whisper.cpp's server."""
        return await desk.serve(request, Inference)

    @app.websocket("/v1/realtime")
    async def realtime(socket: WebSocket) -> None:
        await Session(socket, desk, settings.max_seconds).run()

    @app.get("/v1/models", tags=["models"])
    async def list_models() -> dict[str, Any]:
        """All models."""
        return {"object": "list", "data": [_model(models, name) for name in models.names]}

    @app.get("/v1/models/{name:path}", tags=["models"])
    async def get_model(name: str) -> dict[str, Any]:
        """One model."""
        return _model(models, models.find(name))

    @app.get("/health", tags=["service"])
    async def health() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/ready", tags=["service"])
    async def readiness() -> JSONResponse:
        """Whether the first model is loaded, and what it was last asked for was answered."""
        status, text = await ready.state()
        return JSONResponse({"status": text}, status)

    @app.get("/metrics", tags=["service"])
    async def prometheus() -> Response:
        """Counts, for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return Guard(app, settings, metrics)


def _tell_errors(app: FastAPI) -> None:
    """Errors in OpenAI's shape, whatever raises them."""

    async def of_api(_request: Request, error: Exception) -> Response:
        return told(error).response()

    async def of_http(_request: Request, error: Exception) -> Response:
        assert isinstance(error, StarletteHTTPException)
        response = ApiError(error.status_code, str(error.detail)).response()
        response.headers.update(error.headers or {})
        return response

    async def of_validation(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        return ApiError(400, first["msg"], param=str(first["loc"][-1])).response()

    async def of_anything(_request: Request, _error: Exception) -> Response:
        # The server logs it.
        return ApiError(500, "a fault of the server; its log tells more").response()

    app.add_exception_handler(ApiError, of_api)
    app.add_exception_handler(GraniteError, of_api)
    app.add_exception_handler(MemoryError, of_api)
    app.add_exception_handler(StarletteHTTPException, of_http)
    app.add_exception_handler(RequestValidationError, of_validation)
    app.add_exception_handler(Exception, of_anything)


def _model(models: Models, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": models.created,
        "owned_by": "granite-gguf",
        "loaded": models.is_loaded(name),
    }


def _body(fields: type[Fields]) -> dict[str, Any]:
    """How the documentation describes a form, which is read by hand."""
    schema = fields.model_json_schema(ref_template="#/components/schemas/{model}")
    schema["properties"] = {
        "file": {"type": "string", "format": "binary", "description": "The recording."},
        **schema["properties"],
    }
    # References within the schema would lead nowhere from here.
    for name, definition in schema.pop("$defs", {}).items():
        for value in schema["properties"].values():
            if value.get("$ref", "").endswith(f"/{name}"):
                del value["$ref"]
                value.update(definition)
    schema["required"] = ["file"]
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    }
