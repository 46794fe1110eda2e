"""The service on Ray Serve: two machines on loopback, and a replica killed under load.

python -m benchmarks.deployed [--clients 8] [--seconds 20]

Clients ask as OpenAI's own does, which tries again after errors of the server. Every text is
compared with what the model makes of the same clip in this process.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import openai

from benchmarks.load import Clip, clips
from granite_gguf.demo import DEMO_MODEL

STORE_BYTES = 100 << 20
WAIT = 120.0
MARK = "GRANITE_GGUF_BENCHMARK"
RETRIES = 8


@contextmanager
def deployed(replicas: int) -> Iterator[str]:
    """The address of a service on two machines of Ray, with a CPU each."""
    os.environ |= {
        MARK: str(os.getpid()),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Else a proxy asks the replica of its own machine as long as that takes requests.
        "RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING": "0",
    }
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    from granite_gguf.serve.deployment import build

    machine = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args={**machine, "include_dashboard": False})
    try:
        cluster.add_node(**machine)
        ray.init(address=cluster.address, log_to_driver=False)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        serve.run(build({"replicas": replicas, "cpus": 1}))
        nodes = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        assert len(nodes) == len(replica_processes()) == 2
        yield f"http://127.0.0.1:{port}"
        serve.shutdown()
    finally:
        ray.shutdown()
        cluster.shutdown()


def replica_processes() -> list[int]:
    """Processes of replicas that this one started."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            ours = f"{MARK}={os.getpid()}".encode() in (process / "environ").read_bytes()
            if ours and (process / "cmdline").read_bytes().startswith(b"ray::ServeReplica:"):
                found.append(int(process.name))
        except OSError:  # it has ended
            continue
    return sorted(found)


def ask_and_kill(address: str, given: list[Clip], clients: int, seconds: float) -> Counter[str]:
    """What became of the requests of so many clients, of which none may be wrong or unanswered."""
    counts: Counter[str] = Counter()
    end = time.monotonic() + seconds

    def one(number: int) -> None:
        with openai.OpenAI(base_url=f"{address}/v1", api_key="none", timeout=WAIT,
                           max_retries=RETRIES) as client:  # fmt: skip
            while time.monotonic() < end:
                clip = given[(number + counts.total()) % len(given)]
                raw = client.audio.transcriptions.with_raw_response
                response = raw.create(model="default", file=clip.data)
                assert response.parse().text == clip.text
                counts["answered"] += 1
                counts["of these at another attempt"] += response.retries_taken > 0

    with ThreadPoolExecutor(clients) as pool:
        running = [pool.submit(one, number) for number in range(clients)]
        time.sleep(seconds / 3)
        before = replica_processes()
        os.kill(before[-1], signal.SIGKILL)
        for work in running:
            work.result()
    assert counts["of these at another attempt"], "nobody waited for it when it was killed"
    while len(replica_processes()) < len(before):
        assert time.monotonic() < end + WAIT, "no other replica came"
        time.sleep(0.1)
    assert before[-1] not in replica_processes()
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20)
    args = parser.parse_args()
    given = clips(DEMO_MODEL, 1.5)
    with deployed(2) as address:
        counts = ask_and_kill(address, given, args.clients, args.seconds)
        with openai.OpenAI(base_url=f"{address}/v1", api_key="none") as client:
            found = client.audio.transcriptions.create(model="default", file=given[0].data)
            assert found.text == given[0].text
    told = ", ".join(f"{count} {what}" for what, count in counts.items())
    print(f"a replica killed under load: {told}; none wrong, none lost, and two replicas again")


if __name__ == "__main__":
    main()
