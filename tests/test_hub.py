"""Models from the Hub, by real processes against a hub on this machine."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from granite_gguf.architectures import ARCHITECTURES
from granite_gguf.demo import DEMO_MODEL, DEMO_SAMPLES
from granite_gguf.errors import HubError
from granite_gguf.hub.names import HubFile, HubName, audio_part, choose_file, parse_name
from granite_gguf.hub.published import PUBLISHED as KNOWN
from tests.fake_hub import COMMIT, FakeHub, serving

REPOSITORY = "someone/speech-GGUF"
FILE = "speech-Q6_K.gguf"
SAMPLE = DEMO_SAMPLES[0]
TEXT = SAMPLE.with_suffix(".txt").read_text(encoding="utf-8").strip()


@dataclass
class Client:
    """A person with a cache of their own."""

    home: Path
    endpoint: str

    @property
    def repository(self) -> Path:
        return self.home / "hub" / f"models--{REPOSITORY.replace('/', '--')}"

    @property
    def blobs(self) -> list[Path]:
        return sorted((self.repository / "blobs").glob("*"))

    def environment(self, **more: str) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "GRANITE"))}
        return {
            **clean,
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(self.home),
            "NO_PROXY": "localhost,127.0.0.1",
            **more,
        }

    def start(self, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "granite_gguf", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(**environment),
        )

    def run(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=60)
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess([], process.returncode, out, err)

    def refused(self, *arguments: object, **environment: str) -> str:
        """The one line of an error of wrong usage."""
        result = self.run(*arguments, **environment)
        assert (result.returncode, result.stdout) == (2, ""), result.stderr
        *_, line = result.stderr.splitlines()
        assert line.startswith("error: ")
        return line


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    files = {
        FILE: DEMO_MODEL.read_bytes(),
        "speech-q4_k.gguf": b"GGUF, but not for long",
        "speech-q4_k-mini.gguf": b"GGUF, even shorter",
        "README.md": b"# A model",
    }
    with serving(FakeHub(REPOSITORY, files)) as served:
        yield served


@pytest.fixture
def client(hub: FakeHub, tmp_path: Path) -> Client:
    return Client(tmp_path / "home", hub.endpoint)


@pytest.mark.slow
def test_download_once_then_offline(hub: FakeHub, client: Client) -> None:
    first = client.run("transcribe", "-m", f"{REPOSITORY}:q6_k", SAMPLE, HF_TOKEN="hf_secret")
    assert (first.returncode, first.stdout.strip()) == (0, TEXT), first.stderr
    assert first.stderr == f"downloading {FILE} (10.4 MB) from {REPOSITORY}@{COMMIT[:12]}\n"
    assert hub.ranges == [None]
    assert hub.tokens == {"api": "Bearer hf_secret", "someone": "Bearer hf_secret", "cdn": None}
    assert [blob.name for blob in client.blobs] == [hub.digest(FILE)]

    hub.requests.clear()
    again = client.run("transcribe", "-m", f"{REPOSITORY}:{FILE}@main", SAMPLE)
    assert again.stderr == f"using {FILE} of {REPOSITORY}@{COMMIT[:12]} from the cache\n"
    assert [(method, path) for method, path, _ in hub.requests] == [
        ("GET", f"/api/models/{REPOSITORY}/revision/main")
    ]
    # A commit's file never changes: nobody is asked. And -q says nothing.
    hub.requests.clear()
    quiet = client.run("transcribe", "-q", "-m", f"{REPOSITORY}:{FILE}@{COMMIT}", SAMPLE)
    assert (quiet.returncode, quiet.stdout.strip(), quiet.stderr) == (0, TEXT, "")
    assert not hub.requests


@pytest.mark.slow
def test_offline_from_the_cache(hub: FakeHub, client: Client) -> None:
    assert client.run("inspect", f"{REPOSITORY}:Q6_K").returncode == 0
    for status, code, says in (
        (503, "", "HTTP 503"),
        (200, "", "does not answer like a Hub"),  # a network's login page
        (404, "RepoNotFound", "no such repository"),  # deleted since
    ):
        hub.answer["/"] = (status, code)
        cached = client.run("inspect", f"{REPOSITORY}:Q6_K")
        assert cached.returncode == 0 and "from the cache: " in cached.stderr
        assert says in cached.stderr
    client.endpoint = "http://127.0.0.1:9"  # where nothing listens
    cut_off = client.run("transcribe", "-m", REPOSITORY, SAMPLE)  # the only one in the cache
    assert (cut_off.returncode, cut_off.stdout.strip()) == (0, TEXT), cut_off.stderr
    python = (
        "import granite_gguf, sys; print(granite_gguf.load(sys.argv[1]).transcribe(sys.argv[2]))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", python, f"{REPOSITORY}:Q6_K", SAMPLE],
        capture_output=True, text=True, check=True, env=client.environment(HF_HUB_OFFLINE="1"),
    )  # fmt: skip
    assert TEXT in loaded.stdout and not loaded.stderr
    line = client.refused("inspect", f"{REPOSITORY}:Q8_0", HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE" in line and f"{FILE} (10.4 MB)" in line
    line = client.refused("inspect", "other/repository")
    assert "cannot be reached" in line and "not in the cache" in line and "local file" in line


@pytest.mark.slow
def test_a_broken_download_is_resumed(hub: FakeHub, client: Client) -> None:
    hub.cut_after = 3_000_000
    line = client.refused("inspect", f"{REPOSITORY}:Q6_K")
    assert "broke off after 3.0 MB of 10.4 MB" in line and "run the same again to resume" in line
    (partial,) = client.blobs
    assert partial.name == f"{hub.digest(FILE)}.incomplete"
    size = partial.stat().st_size
    assert 2_900_000 < size < 3_100_000
    assert hub.ranges[0] is None and set(hub.ranges[1:]) == {f"bytes={size}-"}

    hub.requests.clear()
    hub.cut_after = None
    resumed = client.run("inspect", f"{REPOSITORY}:Q6_K")
    assert resumed.returncode == 0 and "3.0 MB of it are here already" in resumed.stderr
    assert hub.ranges == [f"bytes={size}-"]
    assert [blob.read_bytes() for blob in client.blobs] == [hub.files[FILE]]


def test_a_connection_that_breaks_now_and_then(hub: FakeHub, client: Client) -> None:
    """Each connection brings four megabytes; the process itself goes on from there."""
    hub.cut_after = 4_000_000
    process = client.start("inspect", f"{REPOSITORY}:Q6_K")
    while len(hub.ranges) < 2 and process.poll() is None:
        hub.closing.wait(0.01)
    hub.cut_after = None
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert hub.ranges[0] is None and hub.ranges[-1] is not None
    assert client.blobs[0].read_bytes() == hub.files[FILE]


def test_a_hub_without_ranges(hub: FakeHub, client: Client) -> None:
    partial = client.repository / "blobs" / f"{hub.digest(FILE)}.incomplete"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(hub.files[FILE][:5000])
    hub.ignores_ranges = True
    assert client.run("inspect", f"{REPOSITORY}:Q6_K").returncode == 0
    assert hub.ranges == ["bytes=5000-"]
    assert client.blobs[0].read_bytes() == hub.files[FILE]


def test_damaged_contents_are_deleted(hub: FakeHub, client: Client) -> None:
    hub.altered = True
    line = client.refused("inspect", f"{REPOSITORY}:Q6_K")
    assert f"{FILE} of {REPOSITORY}@{COMMIT[:12]}" in line
    assert "damaged and has been deleted" in line and hub.digest(FILE)[:12] in line
    assert not client.blobs and not list(client.repository.rglob("*.gguf"))
    # A partial file of other contents is found out, too.
    hub.altered = False
    (client.repository / "blobs" / f"{hub.digest(FILE)}.incomplete").write_bytes(b"x" * 5000)
    assert "damaged and has been deleted" in client.refused("inspect", f"{REPOSITORY}:Q6_K")
    assert not client.blobs


@pytest.mark.slow
def test_interrupted(hub: FakeHub, client: Client) -> None:
    hub.hold_after = 2_000_000
    process = client.start("inspect", f"{REPOSITORY}:Q6_K")
    assert hub.holding.wait(30)
    partial = client.repository / "blobs" / f"{hub.digest(FILE)}.incomplete"
    while not partial.exists() or not partial.stat().st_size:
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (130, "") and "Traceback" not in err
    left = [path for path in client.home.rglob("*") if path.is_file()]
    assert sorted(path.suffix for path in left) == [".incomplete", ".lock"]
    hub.hold_after = None
    size = partial.stat().st_size
    assert client.run("inspect", f"{REPOSITORY}:Q6_K").returncode == 0
    assert hub.ranges[-1] == f"bytes={size}-"


@pytest.mark.slow
def test_two_at_once_download_once(hub: FakeHub, client: Client) -> None:
    processes = [client.start("inspect", f"{REPOSITORY}:Q6_K") for _ in range(2)]
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert hub.ranges == [None]


def test_no_room(hub: FakeHub, client: Client) -> None:
    hub.sizes[FILE] = 10**16
    line = client.refused("inspect", f"{REPOSITORY}:Q6_K")
    assert "needs 10000000.00 GB" in line and "free" in line and "HF_HOME" in line
    assert str(client.repository / "blobs") in line and not hub.ranges and not client.blobs


def test_a_disk_that_fills(hub: FakeHub, client: Client) -> None:
    limit = 1_000_000
    process = subprocess.run(
        [sys.executable, "-m", "granite_gguf", "inspect", f"{REPOSITORY}:Q6_K"],
        capture_output=True, text=True, check=False, env=client.environment(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert process.returncode == 2 and "Traceback" not in process.stderr
    assert f"cannot be stored in {client.repository / 'blobs'}" in process.stderr


@pytest.mark.slow
def test_refusals(hub: FakeHub, client: Client) -> None:
    assert "no such repository" in client.refused("inspect", "someone/else:Q6_K")
    assert "no revision 'v9'" in client.refused("inspect", f"{REPOSITORY}:Q6_K@v9")
    line = client.refused("inspect", f"{REPOSITORY}:other.gguf")
    assert "has no file other.gguf" in line and f"{FILE} (10.4 MB)" in line
    for status, code, says in (
        (401, "GatedRepo", "is gated"),
        (401, "", "HF_TOKEN"),
        (403, "", "HF_TOKEN"),
        (503, "", "HTTP 503"),
    ):
        hub.answer = {"/api": (status, code)}
        assert says in client.refused("inspect", f"{REPOSITORY}:Q6_K")
    assert "HTTP 503" in client.refused("convert", REPOSITORY, "-o", client.home / "x.gguf")
    hub.answer = {"/cdn": (404, "")}
    assert "HTTP 404" in client.refused("inspect", f"{REPOSITORY}:Q6_K")
    hub.answer = {"/api": (200, "")}
    assert "does not answer like a Hub" in client.refused("inspect", f"{REPOSITORY}:Q6_K")


@pytest.mark.slow
def test_models_lists_what_is_known_and_cached(hub: FakeHub, client: Client) -> None:
    offline = {"HF_HUB_OFFLINE": "1"}
    empty = client.run("models", **offline)
    assert empty.returncode == 0 and "None is in the cache" in empty.stdout
    hub.repository = "cstr/granite-speech-4.1-2b-nar-GGUF"
    hub.files = {"granite-speech-4.1-2b-nar-q4_k.gguf": hub.files[FILE], "llama-Q4_0.gguf": b"GGUF"}
    assert client.run("inspect", "auto").returncode == 0  # nothing but the right name is measured
    assert client.run("inspect", f"{hub.repository}:Q4_0").returncode == 2  # cached, no model
    listed = client.run("models", "--json", **offline)
    values = json.loads(listed.stdout)
    (cached,) = values["cached"]
    assert cached["size"] == len(DEMO_MODEL.read_bytes()) and cached["revision"] == COMMIT
    assert cached["refs"] == ["main"] and Path(cached["path"]).is_file()
    published = {one["name"]: one for one in values["published"]}
    assert published[f"{hub.repository}:q4_k"]["cached"] == [cached]
    assert published[f"{hub.repository}:q4_k"]["gigabytes"] == 3.2
    assert not published[f"{hub.repository}:q4_k-mini"]["cached"]
    table = client.run("models", **offline).stdout
    assert cached["path"] in table and COMMIT[:12] in table and "recommended (auto)" in table


@pytest.mark.slow
def test_both_files_of_a_pair_come(hub: FakeHub, client: Client) -> None:
    hub.files |= {"mmproj-model-f16.gguf": b"GGUF, the other", "sub/mmproj.gguf": b"GGUF"}
    first = client.run("inspect", f"{REPOSITORY}:q6_k")
    assert first.returncode == 0, first.stderr
    assert re.findall(r"downloading (\S+)", first.stderr) == [FILE, "mmproj-model-f16.gguf"]
    (snapshot,) = (client.repository / "snapshots").iterdir()
    assert {path.name for path in snapshot.iterdir()} == {FILE, "mmproj-model-f16.gguf"}
    again = client.run("inspect", f"{REPOSITORY}:q6_k", HF_HUB_OFFLINE="1")
    assert re.findall(r"using (\S+)", again.stderr) == [FILE, "mmproj-model-f16.gguf"]


# Names, without a hub

PUBLISHED = [
    HubFile(f"granite-speech-4.1-2b-nar-{kind}.gguf", 10**9)
    for kind in ("f16", "q4_k", "q4_k-f16enc", "q4_k-mini")
]
MIXED = [HubFile(f"x-{kind}.gguf", 1) for kind in ("BF16", "F16", "Q4_K_M", "Q5_K_M")]


@pytest.mark.parametrize(
    ("files", "selector", "chosen"),
    [
        (PUBLISHED, "Q4_K", "granite-speech-4.1-2b-nar-q4_k.gguf"),
        (PUBLISHED, "q4_k-mini", "granite-speech-4.1-2b-nar-q4_k-mini.gguf"),
        (PUBLISHED, "F16", "granite-speech-4.1-2b-nar-f16.gguf"),
        (PUBLISHED, None, "granite-speech-4.1-2b-nar-q4_k.gguf"),
        (MIXED, "f16", "x-F16.gguf"),
        (MIXED, None, "x-Q4_K_M.gguf"),
        (MIXED[:1], None, "x-BF16.gguf"),
        ([*MIXED[:1], HubFile("imatrix.gguf", 1), HubFile("a.md", 1)], None, "x-BF16.gguf"),
        ([HubFile("sub/x-Q8_0.gguf", 1), *MIXED], "Q8_0", "sub/x-Q8_0.gguf"),
        ([HubFile("mmproj-model-f16.gguf", 1), *MIXED], "F16", "x-F16.gguf"),
    ],
)
def test_the_file_a_type_means(files: list[HubFile], selector: str | None, chosen: str) -> None:
    assert choose_file(HubName("a/b", selector), files, "a/b").name == chosen


def test_the_other_file_of_a_pair() -> None:
    model, other = HubFile("x-Q4_K_M.gguf", 1), HubFile("mmproj-model-f16.gguf", 1)
    assert audio_part(model, [model, other, HubFile("sub/mmproj.gguf", 1)]) == other
    assert audio_part(model, [model, HubFile("sub/mmproj.gguf", 1)]) is None
    assert audio_part(model, [model, other, HubFile("mmproj-model-f32.gguf", 1)]) is None
    assert audio_part(other, [model, other]) is None


@pytest.mark.parametrize(
    ("files", "selector", "says"),
    [
        (PUBLISHED, "Q8_0", "no GGUF file whose name holds Q8_0"),
        (PUBLISHED, "q4", "no GGUF file whose name holds q4"),
        (MIXED, "Q4_K", "x-Q4_K_M.gguf (0.0 MB)"),
        (PUBLISHED[2:], "Q4_K", "2 GGUF files whose name hold Q4_K"),
        (MIXED[:2], None, "has 2 GGUF files, say which"),
        ([], None, "has no GGUF files"),
    ],
)
def test_types_that_mean_no_file(files: list[HubFile], selector: str | None, says: str) -> None:
    with pytest.raises(HubError) as caught:
        choose_file(HubName("a/b", selector), files, "a/b")
    assert says in str(caught.value)


def test_published_names_are_told_apart() -> None:
    """Each is what `-m` takes for one file, of a repository whose files are all read in one way."""
    names = [one.name for one in KNOWN]
    assert len(set(names)) == len(names) > 40
    dialects: dict[str, set[str]] = {}
    for one in KNOWN:
        assert parse_name(one.name) == HubName(one.repository, one.selector)
        dialects.setdefault(one.repository, set()).add(one.architecture)
    assert all(len(found) == 1 for found in dialects.values())
    read = {d.architecture for a in ARCHITECTURES for d in a.dialects}
    assert set().union(*dialects.values()) == read


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_name("a/b") == HubName("a/b")
    assert parse_name("a/b:Q4_K@v1") == HubName("a/b", "Q4_K", "v1")
    assert parse_name("a/b:sub/x.gguf@refs/pr/1") == HubName("a/b", "sub/x.gguf", "refs/pr/1")
    auto = parse_name("auto@v2")
    assert auto == HubName("cstr/granite-speech-4.1-2b-nar-GGUF", "Q4_K", "v2")
    for path in ("x.gguf", "a/b.gguf", "./a/b", "/a/b", "a/b/c", "../b", "a", "", "x" * 5000):
        assert parse_name(path) is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    for name in ("a/b", "a/b:Q4_K", "auto"):
        (tmp_path / name).touch()
        assert parse_name(name) is None
    for wrong in ("c/d:", "c/d@", "c/d@main:Q4_K", "c/d@../../x", "auto@", "auto:Q8_0@v1"):
        with pytest.raises(HubError):
            parse_name(wrong)
