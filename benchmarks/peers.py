"""One engine with a model, run once for every line that it is sent.

PYTHON benchmarks/peers.py granite-gguf|transcribe-cpp|crispasr|transformers MODEL AUDIO.wav
    [--tokens 32] [--draft accepted] [--threads 2]

For `benchmarks/in_turns.py`, which starts it with a Python that has the engine: this package, the
wheels `transcribe-cpp` and `crispasr`, with files that `tests/support/dialect_file.py` (NAR) and
`tests/support/speech_files.py` (autoregressive) write, or transformers, which runs an
autoregressive checkpoint's folder in bfloat16. Each answer is one line: seconds, processor seconds,
peak resident bytes, and tokens said, 0 where the engine does not tell.

Random weights may end a text early or go on for ever. An autoregressive model of ours is made to
say so many tokens, without a draft or with one that holds them; other engines are told to say at
most so many, but for transcribe.cpp, which has a limit of its own: 256, for which the others can be
asked as well. A NAR model is left to what it hears.
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


def granite_gguf(args: argparse.Namespace, samples: Samples) -> Run:
    import granite_gguf as engine
    from benchmarks.decoding import FIRST, saying

    model = engine.load(args.model, threads=args.threads)
    said = range(FIRST, FIRST + args.tokens)
    draft = "auto" if args.draft == "accepted" else "off"

    def edited() -> int:
        return len(model.transcribe(samples).segments[0].token_ids)

    def written() -> int:
        with saying(said, said, model.hparams.language.eos_token_id):
            found = model.transcribe(
                samples, draft=draft, min_confidence=0, max_tokens=args.tokens + 1
            )
        return len(found.segments[0].token_ids)

    return written if model.file.format.name == "granite_speech" else edited


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
    """Features are made of parts of transformers here: its processor needs torchaudio for them."""
    import torch
    from transformers import AutoTokenizer, GraniteSpeechForConditionalGeneration
    from transformers.audio_utils import mel_filter_bank

    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = GraniteSpeechForConditionalGeneration.from_pretrained(args.model, dtype=torch.bfloat16)
    config = model.config
    bands = config.encoder_config.input_dim // 2
    filters = mel_filter_bank(257, bands, 0.0, 8000.0, 16000, norm=None, mel_scale="htk")
    bank, window = torch.from_numpy(filters).float(), torch.hann_window(400)
    chat = [{"role": "user", "content": f"<|audio|>{_INSTRUCTION}"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)

    def run() -> int:
        audio = torch.from_numpy(samples)
        spectrum = torch.stft(audio, 512, 160, 400, window, pad_mode="reflect", return_complex=True)
        logs = (spectrum.abs().square().T @ bank).clamp(min=1e-10).log10()
        logs = (torch.maximum(logs, logs.max() - 8) / 4 + 1)[: len(logs) // 2 * 2]
        features = logs.reshape(1, -1, 2 * bands)
        blocks = -(-features.shape[1] // config.window_size)
        rows = blocks * (config.window_size // config.downsample_rate)
        ids = tokenizer(text.replace("<|audio|>", "<|audio|>" * rows), return_tensors="pt")
        with torch.inference_mode():
            said = model.generate(
                **ids,
                input_features=features.to(torch.bfloat16),
                input_features_mask=torch.ones(1, rows, dtype=torch.bool),
                max_new_tokens=args.tokens,
                min_new_tokens=args.tokens,
                do_sample=False,
                num_beams=1,
            )
        return int(said.shape[1]) - int(ids["input_ids"].shape[1])

    return run


ENGINES = {
    "granite-gguf": granite_gguf,
    "transcribe-cpp": transcribe_cpp,
    "crispasr": crispasr,
    "transformers": transformers,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine", choices=tuple(ENGINES))
    parser.add_argument("model")
    parser.add_argument("audio")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--draft", choices=("off", "accepted"), default="off", help="of ours")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    run = ENGINES[args.engine](args, read(args.audio))
    for _ in sys.stdin:
        started, busy = time.perf_counter(), time.process_time()
        tokens = run()
        seconds, busy = time.perf_counter() - started, time.process_time() - busy
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(seconds, busy, peak, tokens, flush=True)


if __name__ == "__main__":
    main()
