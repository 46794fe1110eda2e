"""Memory that is not there: said before it is asked for, and never a dead process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from granite_gguf import DeviceError, OutOfMemoryError, load, memory
from granite_gguf.demo import DEMO_MODEL, DEMO_SAMPLES
from granite_gguf.memory import Room, host_room, require
from granite_gguf.sound.reading import read_audio
from tests.machine import meminfo, scarce, system
from tests.signals import synthetic_audio

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

MB = 1 << 20


V1 = "sys/fs/cgroup/memory/"
V2 = "sys/fs/cgroup/"


@pytest.mark.parametrize(
    ("files", "free_mb", "where"),
    [
        ({"proc/meminfo": meminfo(700, 50)}, 750, "this machine"),
        (  # version 2: the file cache can be dropped, and the parent's limit holds as well
            {
                "proc/meminfo": meminfo(9000),
                "proc/self/cgroup": "0::/a/b\n",
                V2 + "a/b/memory.max": "max\n",
                V2 + "a/memory.max": f"{500 * MB}\n",
                V2 + "a/memory.current": f"{400 * MB}\n",
                V2 + "a/memory.stat": f"anon 7\nactive_file {30 * MB}\ninactive_file {20 * MB}\n",
            },
            150,
            "control group",
        ),
        (  # with 60 MB of the group's swap still free
            {
                "proc/self/cgroup": "0::/\n",
                V2 + "memory.max": f"{500 * MB}",
                V2 + "memory.current": f"{400 * MB}",
                V2 + "memory.swap.max": f"{80 * MB}",
                V2 + "memory.swap.current": f"{20 * MB}",
            },
            160,
            "control group",
        ),
        (  # version 1: a path of the host's, of which a container sees only the top
            {
                "proc/meminfo": meminfo(9000),
                "proc/self/cgroup": "5:cpu:/x\n4:memory:/docker/0123\n",
                V1 + "memory.limit_in_bytes": f"{300 * MB}\n",
                V1 + "memory.usage_in_bytes": f"{250 * MB}\n",
                V1 + "memory.stat": f"total_active_file {10 * MB}\ntotal_inactive_file 0\n",
            },
            60,
            "control group",
        ),
        (  # version 1 without a limit
            {
                "proc/meminfo": meminfo(80),
                "proc/self/cgroup": "4:memory:/\n",
                V1 + "memory.limit_in_bytes": "9223372036854771712\n",
            },
            80,
            "this machine",
        ),
    ],
)
def test_the_least_of_all_limits_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], free_mb: int, where: str
) -> None:
    monkeypatch.setattr(memory, "ROOT", system(tmp_path, files))
    room = host_room()
    assert room is not None and room.free == free_mb * MB and where in room.where
    require(free_mb * MB, "It", "Do.")
    with pytest.raises(OutOfMemoryError, match=rf"^It needs .* but .*{where}.* leaves .*\. Do\.$"):
        require(free_mb * MB + 1, "It", "Do.")


def test_a_system_that_tells_nothing_has_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    assert host_room() is None
    require(1 << 60, "It", "Do.")


def test_memory_held_already_is_not_counted_again(f32_files: dict[str, Path]) -> None:
    with load(f32_files["nle"], threads=1, device="cpu") as model:
        needs: list[int] = []
        told = model._runtime.require
        model._runtime.require = lambda needed, *rest: (needs.append(needed), told(needed, *rest))
        model.transcribe(np.tile(synthetic_audio(16_000 * 20, seed=1), 10))
        # The encoder's states of 200 s alone, 10,000 frames of 64 float32 numbers, and their like.
        assert max(needs) > 10_000 * 64 * 4
        first, needs = needs, []
        model.transcribe(synthetic_audio(16_000 * 20, seed=1))
        # What the encoder returns of 1,000 frames, four states and one more and a number, alone.
        assert max(needs) == 1_000 * (5 * 64 + 1) * 4 < max(first) / 4


# From outside

SCRIPT = """
import resource, sys
from pathlib import Path
import av
from granite_gguf import cli, memory
kind, amount = sys.argv[1], int(sys.argv[2])
if kind == "root":
    memory.ROOT = Path(sys.argv[3])
else:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (amount << 20)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.argv = ["granite-gguf", *sys.argv[4:]]
cli.main()
"""


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_a_model_too_big_for_the_machine(tmp_path: Path) -> None:
    root = scarce(tmp_path)
    done = run("root", 0, root, "transcribe", "-m", DEMO_MODEL, DEMO_SAMPLES[0], DEMO_SAMPLES[1])
    assert done.returncode == 2, done.stderr
    assert f"error: {DEMO_MODEL}: the model needs " in done.stderr
    assert "this machine leaves 1.0 MB" in done.stderr and "smaller type" in done.stderr
    assert "Traceback" not in done.stderr and not done.stdout


@pytest.mark.slow
def test_a_recording_too_long_for_the_machine(
    f32_files: dict[str, Path], tmp_path: Path, audio_file: Path
) -> None:
    """It fails, the other one does not; shorter pieces help."""
    root = system(tmp_path, {"proc/meminfo": meminfo(30)})
    long = tmp_path / "long.flac"
    soundfile.write(long, np.tile(synthetic_audio(16_000 * 10, seed=1), 30), 16_000)
    command = ("root", 0, root, "transcribe", "-m", f32_files["nle"])
    done = run(*command, long, audio_file, "--chunk-seconds", 300)
    assert done.returncode == 1, done.stderr
    assert f"error: {long}: This stretch of audio needs " in done.stderr
    assert "--chunk-seconds" in done.stderr and "Traceback" not in done.stderr
    assert done.stdout.startswith(str(audio_file))
    pieces = run(*command, long)
    assert pieces.returncode == 0 and pieces.stdout, pieces.stderr


@pytest.mark.parametrize("megabytes", [60, 250, 395, 410, 425, 440, 470, 500, 530, 2000])
def test_little_address_space(megabytes: int) -> None:
    """Refused by the system at one allocation or another: an error, not a signal."""
    command = ("transcribe", "-m", DEMO_MODEL, "--threads", 2, DEMO_SAMPLES[0])
    done = run("limit", megabytes, "", *command)
    assert done.returncode in (0, 1, 2), done.stderr
    assert "Traceback" not in done.stderr
    if megabytes < 400:
        assert done.returncode == 2 and "(ulimit -v) leaves" in done.stderr, done.stderr
    if megabytes == 2000:
        assert done.returncode == 0, done.stderr
    assert (done.returncode == 0) == (not done.stderr)


LONG = """
import resource, sys
from pathlib import Path
import numpy as np
import granite_gguf
from granite_gguf.demo import DEMO_MODEL
noise = np.random.default_rng(0).standard_normal(16_000 * 200).astype(np.float32) / 10
with granite_gguf.load(DEMO_MODEL, threads=2, device="cpu") as model:
    model.transcribe(noise[:16_000])
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (int(sys.argv[1]) << 20)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        model.transcribe(noise, chunk_seconds=200)  # in one pass
    except granite_gguf.OutOfMemoryError as error:
        print(error)
"""


@pytest.mark.parametrize("megabytes", [100, 150, 165, 180, 195])
def test_intermediate_results_that_do_not_fit(megabytes: int) -> None:
    """Where the graph fits and its kernels' own memory does not, ggml would end the process."""
    done = subprocess.run(
        [sys.executable, "-c", LONG, str(megabytes)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "This stretch of audio needs" in done.stdout


def test_the_long_pass_is_refused_before_it_begins(
    f32_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A model of its own: one that has done a long pass before still holds the memory for another.
    with load(f32_files["granite_speech_nar"], threads=1, device="cpu") as model:
        monkeypatch.setattr(memory, "ROOT", scarce(tmp_path))
        monkeypatch.setattr(
            model, "run_encoder", lambda *_: pytest.fail("the encoder ran before the check")
        )
        with pytest.raises(OutOfMemoryError, match="chunk-seconds"):
            model.transcribe(synthetic_audio(16_000 * 61, seed=1))


def test_refusals_of_ggml_itself(
    f32_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system told of enough and the allocation fails all the same."""
    import ggml as c

    with load(f32_files["nle"], threads=1, device="cpu") as model:
        mel = model.compute_mel(synthetic_audio(16_000, seed=1))
        with monkeypatch.context() as patch:
            patch.setattr(c, "ggml_backend_sched_reserve", lambda *_: False)
            with pytest.raises(OutOfMemoryError, match="refused the memory"):
                model.run_encoder(mel)
        assert len(model.run_encoder(mel).final)  # goes on
    with monkeypatch.context() as patch:
        patch.setattr(c, "ggml_backend_alloc_ctx_tensors_from_buft", lambda *_: None)
        with pytest.raises(OutOfMemoryError, match=r"no room for .* of weights"):
            load(f32_files["nle"], threads=1, device="cpu")


def test_audio_too_long_for_one_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, np.zeros(16_000 * 600, np.int16), 16_000)
    monkeypatch.setattr(memory, "ROOT", system(tmp_path, {"proc/meminfo": meminfo(70)}))
    with pytest.raises(OutOfMemoryError, match=r"600 s of audio in one array needs 76\.8 MB"):
        read_audio(path, 16_000)
    assert issubclass(OutOfMemoryError, MemoryError) and issubclass(OutOfMemoryError, DeviceError)


def test_a_device_of_its_own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutOfMemoryError, match=r"the device CUDA0 leaves 9\.0 MB"):
        require(9_000_001, "It", "Do.", room=Room(9_000_000, "the device CUDA0"))


HEAPS = """
import ctypes, sys, threading
from granite_gguf.memory import share_heaps
if sys.argv[1] == "shared":
    share_heaps()
c = ctypes.CDLL(None)
c.malloc.restype, c.fopen.restype = ctypes.c_void_p, ctypes.c_void_p
begun = threading.Barrier(9)
def work():
    c.malloc(1000)
    begun.wait()
for _ in range(8):
    threading.Thread(target=work).start()
begun.wait()
told = ctypes.c_void_p(c.fopen(sys.argv[2].encode(), b"w"))
c.malloc_info(0, told)
c.fclose(told)
"""


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="heaps of glibc")
def test_threads_share_heaps(tmp_path: Path) -> None:
    def heaps(how: str, **more: str) -> int:
        command = [sys.executable, "-c", HEAPS, how, str(tmp_path / how)]
        own = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
        subprocess.run(command, check=True, env={**own, **more})
        return (tmp_path / how).read_text().count("<heap ")

    assert heaps("each its own") > 2
    assert heaps("shared") == 2
    assert heaps("shared", MALLOC_ARENA_MAX="4") == 4
