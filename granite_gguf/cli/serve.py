"""``granite-gguf serve``: the model behind a service."""

from __future__ import annotations

import logging
import os
import re
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from granite_gguf.architectures import open_model_file
from granite_gguf.cli.console import print_note
from granite_gguf.cli.groups import command
from granite_gguf.cli.model_names import local_model
from granite_gguf.cli.options import MODEL_HELP, MODEL_VARIABLE, Loading
from granite_gguf.demo import DEMO_MODEL, DEMO_NOTE
from granite_gguf.errors import InputError, MissingExtraError
from granite_gguf.serve.settings import KEY_VARIABLE, LOOPBACK, Settings

_NAMED = re.compile(r"([\w.-]+)=(.+)")
_LIMITS = partial(typer.Option, rich_help_panel="Limits", min=0)


@command
def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "-m",
            "--model",
            metavar="[NAME=]MODEL",
            help=f"{MODEL_HELP} Again for several; the first is for who asks for none. By default "
            f"${MODEL_VARIABLE}, or this package's small demonstration model.",
            show_default=False,
        ),
    ] = None,
    *,
    host: Annotated[
        str, typer.Option(help="The address to listen on; 0.0.0.0 is all of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 is any free one.")] = 8000,
    api_key: Annotated[
        bool | None,
        typer.Option(
            "--api-key/--no-api-key",
            help=f"Ask for the key in ${KEY_VARIABLE}; where that is set, this is so. Beyond this "
            "machine one of both must be said.",
            show_default=False,
        ),
    ] = None,
    max_megabytes: Annotated[float, _LIMITS(metavar="MB", help="The largest request.")] = 100,
    max_seconds: Annotated[
        float, _LIMITS(metavar="S", help="The longest recording, decoded.")
    ] = 14_400,
    queue: Annotated[
        int, _LIMITS(metavar="N", help="Recordings that wait or are at work; more get a 429.")
    ] = 64,
    uploads: Annotated[
        int, _LIMITS(metavar="N", help="Requests that are being sent; more get a 429.")
    ] = 16,
    deadline: Annotated[
        float, _LIMITS(metavar="S", help="The most that an answer may take.")
    ] = 600,
    requests: Annotated[
        bool, typer.Option("--log-requests", help="Log each request's path and status.")
    ] = False,
    loading: Loading,
) -> None:
    """Serve transcription over HTTP, in OpenAI's form.

    Short recordings that wait share a pass of the model. Models are loaded when
    first asked for, the first one at once. SIGTERM answers what was accepted,
    and ends. Nothing of a recording is kept or logged. Needs the extra `serve`.
    """
    sources = {name: _usable(source) for name, source in _sources(model).items()}
    if min(max_megabytes, max_seconds, queue, uploads, deadline) <= 0:
        raise InputError("a limit is 0: nothing could be asked")
    try:
        from granite_gguf.serve.app import create_app  # noqa: PLC0415 - an extra
        from granite_gguf.serve.models import Models  # noqa: PLC0415
        from granite_gguf.serve.run import listening, run  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"serve needs {error.name}: pip install 'granite-gguf[serve]'"
        ) from error

    local = host in LOOPBACK
    settings = Settings(
        key=_key(api_key, local=local),
        max_megabytes=max_megabytes,
        max_seconds=max_seconds,
        uploads=uploads,
        queue=queue,
        deadline=deadline,
        hosts=LOOPBACK if local else None,
    )

    # One more than the queue: whether it answers is tried while it is full.
    opened = partial(loading.load, max_jobs=queue + 1)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # A client's broken form is told to the client.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    if requests:
        logging.getLogger("uvicorn.access").setLevel(logging.INFO)
    with listening(host, port) as listener:
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        print_note(f"{', '.join(sources)} at {address}")
        run(create_app(Models(sources, opened), settings), listener,
            deadline=deadline, requests=requests)  # fmt: skip


def _sources(given: list[str] | None) -> dict[str, str]:
    """What each model's name stands for."""
    if not given:
        variable = os.environ.get(MODEL_VARIABLE)
        if not variable:
            print_note(DEMO_NOTE)
            return {"demo": str(DEMO_MODEL)}
        given = [variable]
    sources: dict[str, str] = {}
    for one in given:
        named = None if Path(one).exists() else _NAMED.fullmatch(one)
        name, source = (
            (named[1], named[2]) if named else (Path(one).name.removesuffix(".gguf"), one)
        )
        if name in sources:
            raise InputError(f"two models are named {name}: give them names, as NAME=MODEL")
        sources[name] = source
    return sources


def _usable(source: str) -> str:
    """The file of a model, which is fetched now where needed, and seen to be one."""
    path = local_model(source)
    open_model_file(path)
    return str(path)


def _key(asked: bool | None, *, local: bool) -> str | None:
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if asked is False:
        return None
    if asked and not key:
        raise InputError(f"--api-key needs the key in the environment, as {KEY_VARIABLE}")
    if not key and not local:
        raise InputError(
            f"beyond this machine anybody could ask: set {KEY_VARIABLE}, or say --no-api-key"
        )
    return key or None
