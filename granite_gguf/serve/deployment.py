"""The service on Ray Serve: as many processes as are wanted, on as many machines.

::

    serve run granite_gguf.serve.deployment:build model=/models/model.gguf replicas=4 cpus=4

or ``import_path`` and ``args`` of a configuration file, or from Python::

    ray.serve.run(granite_gguf.serve.deployment.build({"model": "auto", "replicas": 4}))

Each replica is a whole service, with its own queue and its own limits. Needs the extras ``ray`` and
``serve``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.types import ASGIApp

from granite_gguf.demo import DEMO_MODEL
from granite_gguf.errors import InputError
from granite_gguf.model import Model, load
from granite_gguf.places import import_extra
from granite_gguf.placing.kernel_choice import AUTO, Precision
from granite_gguf.ray import ThreadsAndDevice
from granite_gguf.serve.app import create_app
from granite_gguf.serve.models import Models
from granite_gguf.serve.ready import Readiness
from granite_gguf.serve.run import prepare_process
from granite_gguf.serve.settings import KEY_VARIABLE, LOOPBACK, Settings

serve = import_extra("ray.serve")

_DEFAULTS = Settings()
_BESIDES = 64  # requests of a replica that are no recordings: they are answered at once
_SECONDS_BETWEEN_CHECKS = 10.0


class Wanted(BaseModel):
    """What is to be served, and how.

    Attributes:
        model: as in :func:`granite_gguf.load`; by default the demonstration model.
        models: further ones by the names that clients ask for; ``model`` is named ``default``.
        replicas: how many processes; ``auto`` lets Ray choose by how much is asked.
        cpus: of each, whose threads they are.
        gpus: of each, also a share of one.
        device: as in :func:`granite_gguf.load`, like the next three.
        precision: as there.
        kernels: as there.
        low_memory: as there.
        api_key: whether a key is asked for, that of GRANITE_GGUF_API_KEY where this is built; by
            default where there is one. Without one, a service answers to the names of its own
            machine only, unless this is false.
        max_megabytes: the largest request.
        max_seconds: the longest recording, decoded.
        uploads: requests that may be sending to a replica at a time.
        queue: recordings that may wait or be at work in a replica.
        deadline: seconds that an answer may take.
    """

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    models: dict[str, str] = {}
    replicas: int | Literal["auto"] = 1
    cpus: int = Field(4, ge=1)
    gpus: float = Field(0, ge=0)
    device: str = "auto"
    precision: Precision = Precision.EXACT
    kernels: str = AUTO
    low_memory: bool = False
    api_key: bool | None = None
    max_megabytes: float = Field(_DEFAULTS.max_megabytes, gt=0)
    max_seconds: float = Field(_DEFAULTS.max_seconds, gt=0)
    uploads: int = Field(_DEFAULTS.uploads, ge=1)
    queue: int = Field(_DEFAULTS.queue, ge=1)
    deadline: float = Field(_DEFAULTS.deadline, gt=0)


class Replica:
    """A service in a process of Ray Serve. Belongs to the event loop of that."""

    # Ray Serve waits for it, and the model belongs to its event loop.
    async def __init__(  # type: ignore[misc]
        self, wanted: Wanted, settings: Settings
    ) -> None:
        prepare_process()
        self._wanted = wanted
        sources = {"default": wanted.model or str(DEMO_MODEL), **wanted.models}
        self._models = models = Models(sources, self._load)
        await models.take(models.first)  # a replica that cannot load it does not begin
        models.give_back(models.first)
        self._ready = Readiness(models)
        self._service = create_app(models, settings, self._ready)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._service

    async def check_health(self) -> None:
        """Ray Serve replaces a replica of which this fails three times.

        Raises:
            RuntimeError: the model is stuck.
        """
        status, text = await self._ready.state()
        if status != 200:
            raise RuntimeError(text)

    def _load(self, source: str) -> Model:
        wanted, given = self._wanted, ThreadsAndDevice.of_actor(self._wanted.device)
        return load(
            source,
            threads=given.threads,
            device=given.device,
            kernels=wanted.kernels,
            precision=wanted.precision,
            low_memory=wanted.low_memory,
            max_jobs=wanted.queue + 1,  # whether it answers is tried while the queue is full
        )


def build(args: Mapping[str, Any]) -> Any:
    """An application for ``serve run``, a configuration file or :func:`ray.serve.run`.

    Args:
        args: by the names of :class:`Wanted`.

    Raises:
        InputError: there is no such name or value, or a key is wanted, and there is none.
    """
    try:
        wanted = Wanted.model_validate(args)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        known = ", ".join(Wanted.model_fields)
        raise InputError(f"{name}: {first['msg']}; expected some of {known}") from error
    key = _key(wanted.api_key)
    settings = Settings(
        key=key,
        max_megabytes=wanted.max_megabytes,
        max_seconds=wanted.max_seconds,
        uploads=wanted.uploads,
        queue=wanted.queue,
        deadline=wanted.deadline,
        hosts=LOOPBACK if key is None and wanted.api_key is None else None,
    )
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name="granite-gguf",
        num_replicas=wanted.replicas,
        ray_actor_options={"num_cpus": wanted.cpus, "num_gpus": wanted.gpus},
        max_ongoing_requests=wanted.queue + wanted.uploads + _BESIDES,
        graceful_shutdown_timeout_s=wanted.deadline,
        health_check_period_s=_SECONDS_BETWEEN_CHECKS,
    )
    return deployment.bind(wanted, settings)


def _key(asked: bool | None) -> str | None:
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if asked and not key:
        raise InputError(f"a key is asked for, and {KEY_VARIABLE} holds none where this is built")
    return None if asked is False else key or None
