"""A loaded model in other processes: forked ones, and those it is pickled to."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import granite_gguf
from granite_gguf import InputError, Model, ModelFileError
from granite_gguf.demo import DEMO_MODEL
from tests.signals import synthetic_audio

forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")

# Runs in a process of its own: pytest has threads that a child would lack.
PREPARED = """
import multiprocessing, os, sys, threading, time, warnings
from concurrent.futures import ThreadPoolExecutor
import granite_gguf
from granite_gguf.demo import DEMO_SAMPLES
warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, from 3.12 on

model = granite_gguf.load(threads=2)

def facts(transcript):
    return transcript.token_ids, transcript.hypothesis, transcript.words

def all_facts():
    return [facts(model.transcribe(sample, word_times=True)) for sample in DEMO_SAMPLES]

def in_child(work):
    # What a child answers: 0 where it finds the same as the parent.
    pid = os.fork()
    if not pid:
        code = 99
        try:
            code = work()
        finally:
            os._exit(code)
    for _ in range(1200):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return "hung"

def same():
    return 0 if all_facts() == expected else 1
"""


def run(script: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PREPARED + script],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "done\n", ended.stdout + ended.stderr


@forking
def test_children_compute_what_the_parent_does() -> None:
    """Forked before and after the first use, one after another, and by a child again."""
    run("""
def first():
    model.transcribe(DEMO_SAMPLES[0])
    return 0
assert in_child(first) == 0
expected = all_facts()
assert all(ids for ids, _, _ in expected)
assert [in_child(same) for _ in range(3)] == [0, 0, 0]
assert in_child(lambda: same() or in_child(same)) == 0
assert same() == 0
print("done")
""")


@forking
def test_a_child_opens_files_while_the_parent_opens_one() -> None:
    """soundfile has a lock of its own for that, from 0.14 on."""
    run("""
import soundfile
expected = all_facts()
with getattr(soundfile.SoundFile, "_sf_error_lock", threading.Lock()):
    assert in_child(same) == 0
assert same() == 0
print("done")
""")


@forking
def test_a_run_is_left_to_the_parent() -> None:
    """A child made in the middle of a product does not count what was begun of it."""
    run("""
import ctypes
from granite_gguf.ggml.kernels import LINE, Shares
shares = Shares(2)
ctypes.memset(shares.address, 1, 2 * LINE)
begun = lambda: any(ctypes.string_at(shares.address, 2 * LINE))
assert in_child(begun) == 0
assert begun()
print("done")
""")


@forking
def test_a_child_of_a_thread_while_another_thread_computes() -> None:
    """Whatever the parent is in the middle of, and many recordings at a time."""
    run("""
expected = all_facts()
stop = threading.Event()

def busy():
    while not stop.is_set():
        list(model.transcribe_many(list(DEMO_SAMPLES) * 2))

def many():
    found = model.transcribe_many(DEMO_SAMPLES, word_times=True)
    return 0 if [facts(t) for t in found] == expected else 2

busy_ones = [threading.Thread(target=busy) for _ in range(2)]
for thread in busy_ones:
    thread.start()
with ThreadPoolExecutor(1) as pool:
    codes = []
    for n in range(6):
        time.sleep(0.03 * n)
        codes.append(pool.submit(in_child, lambda: same() or many()).result())
stop.set()
for thread in busy_ones:
    thread.join()
assert codes == [0] * 6, codes
assert same() == 0
print("done")
""")


@forking
def test_a_pool_of_forked_workers() -> None:
    """As gunicorn --preload and Celery have it: loaded and used once, then used by all."""
    run("""
expected = all_facts()

def one(n):
    return facts(model.transcribe(DEMO_SAMPLES[n], word_times=True))

with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map_async(one, [0, 1, 2] * 2, chunksize=1).get(120) == expected * 2
print("done")
""")


@forking
def test_a_device_that_does_not_survive_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so at once; the CPU stands in for a GPU, which is not at hand."""
    from dataclasses import replace

    from granite_gguf import DeviceError
    from granite_gguf.ggml import Runtime

    with Runtime("cpu", 1) as runtime:
        monkeypatch.setattr(runtime, "device", replace(runtime.device, kind="gpu", name="CUDA0"))
        runtime.after_fork()
        with pytest.raises(DeviceError, match=r"CUDA0 was opened by the parent.*load the model in"):
            _ = runtime.scheduler


def token_ids(model: Model, clip: np.ndarray) -> tuple[tuple[int, ...], int, str]:
    return model.transcribe(clip).token_ids, model.threads, str(model.file.path)


def test_pickled_to_another_process(f32_files: dict[str, Path], models: dict[str, Model]) -> None:
    clip = synthetic_audio(32_000, seed=7)
    spawn = multiprocessing.get_context("spawn")
    with (
        granite_gguf.load(f32_files["nle"], threads=1, low_memory=True) as model,
        ProcessPoolExecutor(1, mp_context=spawn) as pool,
    ):
        ids, threads, path = pool.submit(token_ids, model, clip).result(timeout=120)
    assert ids == models["nle"].transcribe(clip).token_ids != ()
    assert (threads, path) == (1, str(f32_files["nle"].absolute()))


def test_copies_are_loaded_from_the_same_file(f32_files: dict[str, Path]) -> None:
    clip = synthetic_audio(32_000, seed=7)
    with granite_gguf.load(f32_files["nle"], threads=1, precision="fast") as model:
        expected = model.transcribe(clip).token_ids
        for make in (copy.copy, copy.deepcopy):
            with make(model) as other:
                assert other is not model
                assert other.transcribe(clip).token_ids == expected
        said = pickle.dumps(model)
    assert len(said) < 1000 and b"fast" in said  # no weights in it
    with pytest.raises(InputError, match="closed"):
        pickle.dumps(model)


def test_the_demonstration_model_is_found_where_it_is_installed() -> None:
    with granite_gguf.load(threads=1) as model:
        assert model.file.path == DEMO_MODEL
        assert str(DEMO_MODEL.parent).encode() not in pickle.dumps(model)
        with pickle.loads(pickle.dumps(model)) as other:
            assert other.file.path == DEMO_MODEL


def test_a_file_that_is_gone(f32_files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(f32_files["nle"].read_bytes())
    with granite_gguf.load(path, threads=1) as model:
        said = pickle.dumps(model)
        path.unlink()
        with pytest.raises(InputError, match=r"model\.gguf: is no file any more, and a model is"):
            pickle.dumps(model)
    with pytest.raises(ModelFileError, match=r"model\.gguf"):
        pickle.loads(said)
