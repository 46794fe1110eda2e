"""The service on Ray Serve: what it is built of, and two machines on loopback."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from granite_gguf import InputError
from granite_gguf.demo import DEMO_SAMPLES

pytest.importorskip("fastapi")
pytest.importorskip("ray.serve")

from granite_gguf.serve import ready as module
from granite_gguf.serve.deployment import Replica, Wanted, build
from granite_gguf.serve.settings import KEY_VARIABLE, LOOPBACK, Settings
from tests.serving import ROUTE

TEXT = DEMO_SAMPLES[1].with_suffix(".txt").read_text().strip()


def settings_of(**args: object) -> Settings:
    wanted, settings = build(args)._bound_deployment.init_args
    assert wanted == Wanted.model_validate(args)
    assert isinstance(settings, Settings)
    return settings


def test_who_may_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond this machine nobody, unless there is a key or it is said that there is none."""
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert (settings_of().key, settings_of().hosts) == (None, LOOPBACK)
    assert (settings_of(api_key=False).key, settings_of(api_key=False).hosts) == (None, None)
    with pytest.raises(InputError, match=KEY_VARIABLE):
        build({"api_key": True})
    monkeypatch.setenv(KEY_VARIABLE, "sesame")
    assert (settings_of().key, settings_of().hosts) == ("sesame", None)
    assert settings_of(api_key=False).key is None


def test_what_is_built() -> None:
    # As the command `serve run` hands them over.
    application = build({"replicas": "3", "cpus": "2", "queue": "5", "uploads": "7"})
    deployment = application._bound_deployment
    assert deployment.num_replicas == 3
    assert deployment.ray_actor_options["num_cpus"] == 2
    # Requests wait in the replica, where they can share a pass, and it refuses what is too much.
    assert deployment.max_ongoing_requests > 5 + 7
    with pytest.raises(InputError, match=r"^replica: .*expected some of model, models, replicas"):
        build({"replica": 3})
    with pytest.raises(InputError, match=r"^cpus: "):
        build({"cpus": 0})


def test_a_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers as the command does, and is not well while the model is stuck."""
    monkeypatch.setattr(module, "_RECENT_SECONDS", 0.0)
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.1)

    async def work() -> None:
        replica = Replica.__new__(Replica)
        await replica.__init__(Wanted(), Settings())  # as Ray Serve does, which waits for it
        app = replica.__serve_build_asgi_app__()
        replica._ready.begin()
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            response = await client.post(ROUTE, files={"file": DEMO_SAMPLES[1].read_bytes()})
            assert response.json()["text"] == TEXT
            await replica.check_health()
            model = await replica._models.take("default")
            with model._scheduler.alone():
                await replica.check_health()
                await asyncio.sleep(0.2)
                with pytest.raises(RuntimeError, match="stuck"):
                    await replica.check_health()
        await replica._ready.end()
        model.close()

    asyncio.run(work())


@pytest.mark.slow
@pytest.mark.alone
def test_a_replica_is_killed_and_no_answer_is_lost() -> None:
    """On two machines, under load: who asks again is answered, and another one takes its place."""
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.deployed", "--clients", "6", "--seconds", "9"],
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-4000:]
    assert "none wrong, none lost, and two replicas again" in run.stdout
