"""Another engine with a granite_speech model, run once for every line that it is sent.

PYTHON benchmarks/peers.py transcribe-cpp|crispasr|transformers MODEL AUDIO.wav
    [--tokens 32] [--threads 2]

For `benchmarks/decoding.py`, which starts it with a Python that has the engine: the wheels
`transcribe-cpp` and `crispasr`, with files that `tests/support/speech_files.py` writes, or
transformers, which runs a checkpoint's folder in bfloat16. Each answer is one line: seconds, peak
resident bytes, and tokens said, 0 where the engine does not tell. Random weights may end a text
early or go on for ever: engines say at most so many tokens, but for transcribe.cpp, which has a
limit of its own.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
import wave
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]
Run = Callable[[], int]
"""Transcribes once; how many tokens were said, or 0 where that is not known."""

_INSTRUCTION = "can you transcribe the speech into a written format?"


def read(path: str) -> Samples:
    """16 kHz mono of 16 bits."""
    with wave.open(path) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2)
        content = file.readframes(file.getnframes())
    return np.frombuffer(content, "<i2").astype(np.float32) / np.float32(32768)


def transcribe_cpp(args: argparse.Namespace, samples: Samples) -> Run:
    import transcribe_cpp as engine

    session = engine.Model(args.model).session(n_threads=args.threads)

    def run() -> int:
        try:
            result = session.run(samples)
        except engine.OutputTruncated as cut:
            result = cut.partial_result
        return len(result.tokens) if result else 0

    return run


def crispasr(args: argparse.Namespace, samples: Samples) -> Run:
    import crispasr as engine

    session = engine.Session(args.model, n_threads=args.threads, use_gpu=False)
    session.set_max_new_tokens(args.tokens)

    def run() -> int:
        session.transcribe(samples)
        return 0

    return run


def transformers(args: argparse.Namespace, samples: Samples) -> Run:
    import torch
    from transformers import AutoProcessor, GraniteSpeechForConditionalGeneration

    torch.set_num_threads(args.threads)
    processor = AutoProcessor.from_pretrained(args.model)
    model = GraniteSpeechForConditionalGeneration.from_pretrained(args.model, dtype=torch.bfloat16)
    chat = [{"role": "user", "content": f"<|audio|>{_INSTRUCTION}"}]
    text = processor.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)

    def run() -> int:
        inputs = processor(text, torch.from_numpy(samples)[None], return_tensors="pt")
        inputs = inputs.to(dtype=torch.bfloat16)
        before = inputs["input_ids"].shape[1]
        with torch.inference_mode():
            said = model.generate(
                **inputs,
                max_new_tokens=args.tokens,
                min_new_tokens=args.tokens,
                do_sample=False,
                num_beams=1,
            )
        return int(said.shape[1]) - before

    return run


ENGINES = {"transcribe-cpp": transcribe_cpp, "crispasr": crispasr, "transformers": transformers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine", choices=tuple(ENGINES))
    parser.add_argument("model")
    parser.add_argument("audio")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    run = ENGINES[args.engine](args, read(args.audio))
    for _ in sys.stdin:
        started = time.perf_counter()
        tokens = run()
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(seconds, peak, tokens, flush=True)


if __name__ == "__main__":
    main()
