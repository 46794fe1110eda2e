"""A service under load, on loopback: how fast it answers, and how it takes what misbehaves.

python -m benchmarks.load speed [--model FILE] [--clients 1 4 16 64] [--seconds 3 11] [--spend 10]
python -m benchmarks.load faults [--requests 10000] [--clients 32]
python -m benchmarks.load killed [--clients 16] [--times 6]

`speed` prints Markdown: clips of a length from so many clients at a time. `faults` sends clips of
which 5 % break off, 5 % are damaged and 1 % are too large. `killed` ends the service under load.
Every text is compared with what the model makes of the same clip in this process.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles

import httpx
import numpy as np
import soundfile

import granite_gguf
from granite_gguf.demo import DEMO_MODEL, DEMO_SAMPLES
from granite_gguf.sound.reading import read_audio

RATE = 16_000
CLIPS = 24  # different ones
ROUTE = "/v1/audio/transcriptions"
WAIT = 120.0
_FEWEST = 3  # requests, however long they take
BROKEN, DAMAGED, HUGE = 0.05, 0.05, 0.01
SEED = 7


@dataclass(frozen=True)
class Clip:
    """A recording as a file, and what is said in it."""

    data: bytes
    text: str


@dataclass
class Service:
    """A process that serves."""

    process: subprocess.Popen[str]
    address: str

    def resident(self) -> float:
        """Megabytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) / 1e3

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))  # noqa: PTH208

    def metric(self, name: str) -> float:
        text = httpx.get(f"{self.address}/metrics").text
        return sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)))


@contextmanager
def serving(model: Path, *arguments: str) -> Iterator[Service]:
    """A service of one model, loaded."""
    command = [sys.executable, "-m", "granite_gguf", "serve", "-m", f"m={model}", "--port", "0"]
    process = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        found = re.search(r"http://\S+", process.stderr.readline())
        assert found is not None, process.stderr.read()
        service = Service(process, found[0])
        while httpx.get(f"{found[0]}/ready").status_code != 200:
            time.sleep(0.05)
        yield service
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def clips(model: Path, seconds: float, count: int = CLIPS) -> list[Clip]:
    """Different clips of speech, and their texts, computed one by one."""
    speech = np.concatenate([read_audio(path, RATE) for path in DEMO_SAMPLES])
    speech = np.tile(speech, 1 + int(seconds * RATE * 2 / len(speech)))
    length = int(seconds * RATE)
    starts = np.linspace(0, len(speech) - length, count).astype(int)
    found = []
    with granite_gguf.load(model) as loaded:
        for start in starts:
            file = io.BytesIO()
            soundfile.write(file, speech[start : start + length], RATE, format="FLAC")
            text = loaded.transcribe(file.getvalue()).text.strip()
            found.append(Clip(file.getvalue(), text))
    return found


async def ask(client: httpx.AsyncClient, clip: Clip) -> float:
    """How long it takes to be answered rightly."""
    started = time.perf_counter()
    response = await client.post(ROUTE, files={"file": clip.data})
    spent = time.perf_counter() - started
    if response.status_code != 200 or response.json()["text"] != clip.text:
        raise AssertionError(f"{response.status_code}: {response.text}, expected {clip.text!r}")
    return spent


async def at_once(address: str, given: list[Clip], clients: int, spend: float) -> list[float]:
    """How long each request took, of so many clients that ask again and again for some seconds."""
    spent: list[float] = []
    end = time.perf_counter() + spend

    async def one(number: int) -> None:
        while time.perf_counter() < end or len(spent) < _FEWEST:
            spent.append(await ask(client, given[(number + len(spent)) % len(given)]))

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=address, timeout=WAIT, limits=limits) as client:
        await ask(client, given[0])
        await asyncio.gather(*map(one, range(clients)))
    return spent


def speed(
    model: Path, seconds: list[float], clients: list[int], spend: float, different: int
) -> None:
    print("| clips | clients | requests/s | against one | p50, ms | p95, ms | p99, ms | a pass |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    with serving(model, "--queue", "256", "--uploads", "256") as service:
        for length in seconds:
            given, alone = clips(model, length, different), 0.0
            for count in clients:
                passes = service.metric("granite_passes_total")
                started = time.perf_counter()
                spent = asyncio.run(at_once(service.address, given, count, spend))
                rate = len(spent) / (time.perf_counter() - started)
                passes = service.metric("granite_passes_total") - passes
                alone = alone or rate
                cuts = quantiles(spent, n=100, method="inclusive")
                times = " | ".join(f"{1000 * cuts[n - 1]:.0f}" for n in (50, 95, 99))
                row = f"| {length:g} s | {count} | {rate:.1f} | {rate / alone:.2f} | {times}"
                print(f"{row} | {(len(spent) + 1) / passes:.1f} |", flush=True)


@dataclass
class Tally:
    """What became of requests, and memory meanwhile."""

    counts: Counter[str] = field(default_factory=Counter)
    resident: list[float] = field(default_factory=list)


async def break_off(address: str, clip: Clip, share: float) -> None:
    """Send part of a request, or all of it, and hang up."""
    host, _, port = address.removeprefix("http://").partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    body = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        + clip.data + b"\r\n--x--\r\n"
    )  # fmt: skip
    head = (
        f"POST {ROUTE} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    )
    writer.write(head.encode() + body[: int(len(body) * share)])
    await writer.drain()
    await asyncio.sleep(0.01 * share)
    writer.transport.abort()


async def misbehave(service: Service, given: list[Clip], requests: int, clients: int) -> Tally:
    """So many requests in all, of which some are not as they should be."""
    tally, left = Tally(), iter(range(requests))
    silence = io.BytesIO()
    soundfile.write(silence, np.zeros(RATE * 400, np.float32), RATE, format="FLAC")

    async def one(client: httpx.AsyncClient) -> None:
        for number in left:
            dice = random.Random(SEED * requests + number)
            chance, clip = dice.random(), dice.choice(given)
            if number % max(1, requests // 20) == 0:
                tally.resident.append(service.resident())
            if chance < BROKEN:
                await break_off(service.address, clip, dice.choice((0.1, 0.5, 0.9, 1.0)))
                tally.counts["broken off"] += 1
                continue
            if chance < BROKEN + DAMAGED:
                cut = dice.randrange(len(clip.data) // 2)
                data, expected = dice.choice((clip.data[:cut], os.urandom(2000))), 400
            elif chance < BROKEN + DAMAGED + HUGE:
                data, expected = dice.choice((bytes(3_000_000), silence.getvalue())), 413
            else:
                await ask(client, clip)
                tally.counts["right text"] += 1
                continue
            response = await client.post(ROUTE, files={"file": data})
            if response.status_code != expected:
                raise AssertionError(
                    f"{response.status_code}, expected {expected}: {response.text}"
                )
            tally.counts[f"told {expected}"] += 1

    async with httpx.AsyncClient(base_url=service.address, timeout=WAIT) as client:
        await asyncio.gather(*(one(client) for _ in range(clients)))
    return tally


def faults(model: Path, requests: int, clients: int) -> None:
    given = clips(model, 1.5)
    limits = ("--max-megabytes", "2", "--max-seconds", "300")
    # Who breaks off is at times still there when its client asks again.
    with serving(model, *limits, "--uploads", str(2 * clients)) as service:
        started = time.perf_counter()
        tally = asyncio.run(misbehave(service, given, requests, clients))
        spent = time.perf_counter() - started
        end = time.monotonic() + WAIT
        while service.metric("granite_recordings_at_work"):
            assert time.monotonic() < end, "the queue is stuck"
            time.sleep(0.05)
        asyncio.run(at_once(service.address, given, 1, 0.1))
        assert httpx.get(f"{service.address}/ready").status_code == 200
        # The first fifth is for buffers that grow to their size.
        settled = tally.resident[len(tally.resident) // 5 :]
        per_request = requests / len(tally.resident)
        slope = np.polyfit(np.arange(len(settled)) * per_request, settled, 1)[0]
        print(f"{requests} requests in {spent:.0f} s: {dict(tally.counts)}; no wrong answer")
        print(f"resident {settled[0]:.0f} to {settled[-1]:.0f} MB, "
              f"{1000 * slope:+.2f} MB in 1000 requests")  # fmt: skip
        print("resident, MB:", *(f"{value:.0f}" for value in tally.resident))
        print(f"{service.open_files()} open files; nothing at work; ready")


async def until_killed(
    service: Service, given: list[Clip], clients: int, *, keep: bool
) -> Counter[str]:
    counts: Counter[str] = Counter()

    async def one(client: httpx.AsyncClient, number: int) -> None:
        while True:
            try:
                clip = given[(number + counts.total()) % len(given)]
                response = await client.post(ROUTE, files={"file": clip.data})
                if response.status_code == 503 and response.json()["error"]["code"] == "ending":
                    counts["told that it ends"] += 1
                    return
                assert (response.status_code, response.json()["text"]) == (200, clip.text)
                counts["answered"] += 1
            except httpx.ConnectError:
                counts["not accepted"] += 1
                return
            except httpx.TransportError as error:
                counts[f"lost by {error!r}"] += 1
                return

    async def kill() -> None:
        await asyncio.sleep(4)
        service.process.send_signal(signal.SIGTERM)

    # A connection for each request or one for all: both end otherwise.
    headers = {} if keep else {"Connection": "close"}
    async with httpx.AsyncClient(base_url=service.address, timeout=WAIT, headers=headers) as client:
        await asyncio.gather(kill(), *(one(client, number) for number in range(clients)))
    return counts


def killed(model: Path, clients: int, times: int) -> None:
    given = clips(model, 1.5)
    for number in range(times):
        with serving(model, "--uploads", str(clients)) as service:
            counts = asyncio.run(until_killed(service, given, clients, keep=number % 2 == 1))
            code = service.process.wait(WAIT)
        print(f"SIGTERM under load: {dict(counts)}; exit code {code}", flush=True)
        assert set(counts) <= {"answered", "not accepted", "told that it ends"} and code == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["speed", "faults", "killed"])
    parser.add_argument("--model", type=Path, default=DEMO_MODEL)
    parser.add_argument("--clients", type=int, nargs="+")
    parser.add_argument("--seconds", type=float, nargs="+", default=[3, 11])
    parser.add_argument("--spend", type=float, default=10, help="seconds for each line")
    parser.add_argument("--different", type=int, default=CLIPS, help="clips, for speed")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=6, help="how often it is killed")
    args = parser.parse_args()
    if args.what == "speed":
        speed(args.model, args.seconds, args.clients or [1, 4, 16, 64], args.spend, args.different)
    elif args.what == "faults":
        faults(args.model, args.requests, (args.clients or [32])[0])
    else:
        killed(args.model, (args.clients or [16])[0], args.times)


if __name__ == "__main__":
    main()
