"""Which matrices of a model's language model suffer most from fewer bits.

python -m benchmarks.language_model SOURCE.gguf WORK AUDIO...

Quantizes one group of SOURCE's matrices at a time (best of BF16 or F32), and mixtures of them, and
compares logits: of an autoregressive model those after the prompt and after each token that SOURCE
itself says next, of the other one those of the editor. An embedding that is also the head is looked
at in both uses apart. Prints Markdown: megabytes saved, 1 - mean cosine of the logits and the same
for each megabyte, the mean divergence of the probabilities in nats (Kullback-Leibler), and the
share of equal best tokens. Files in WORK are removed again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

import granite_gguf
from granite_gguf.architectures import open_model_file
from granite_gguf.nar.spec import NAR
from granite_gguf.placing.weights import ModelWeights
from granite_gguf.quantize import parse_override, quantize
from granite_gguf.speech.asking import Wish, around_audio, instruction

Logits = npt.NDArray[np.float64]
Compute = Callable[[granite_gguf.Model], Logits]

EMBEDDING, HEAD = r"^(llm\.)?token_embd\.", r"^output\."
GROUPS = {
    name: rf"^(llm\.)?blk\.\d+\.{part}\."
    for name, part in {
        "queries": "attn_q",
        "keys": "attn_k",
        "values": "attn_v",
        "attention output": "attn_o(utput)?",
        "feed-forward, gate": "ffn_gate",
        "feed-forward, up": "ffn_up",
        "feed-forward, down": "ffn_down",
    }.items()
}


def variants(base: str, *, tied: bool) -> dict[str, list[str]]:
    """Overrides by what is said of them."""
    both = [EMBEDDING] if tied else [EMBEDDING, HEAD]
    single = ["embedding, its rows", "embedding, the head"] if tied else ["embedding", "head"]
    names = dict(zip(single, 2 * both if tied else both, strict=True))
    found = {
        f"{name} {kind}": [f"{pattern}={kind}"]
        for kind in (base, "q6_k")
        for name, pattern in names.items()
    }
    found |= {f"{name} {base}": [f"{pattern}={base}"] for name, pattern in GROUPS.items()}
    rest = [f"{pattern}={base}" for pattern in GROUPS.values()]
    for kind in (base, "q5_k", "q6_k", "q8_0"):
        found[f"all {base}, embedding and head {kind}"] = [*(f"{p}={kind}" for p in both), *rest]
    if not tied:
        found[f"all {base}, embedding q6_k"] = [f"{EMBEDDING}=q6_k", f"{HEAD}={base}", *rest]
    return found


def said(model: granite_gguf.Model, recordings: list[Path], count: int) -> Compute:
    """What an autoregressive model is asked: prompts, and the tokens that follow."""
    h = model.hparams
    around = around_audio(h, instruction(h, Wish()))
    asked = []
    for path in recordings:
        encoded = model.run_encoder(model.compute_mel(model.load_audio(path)))
        audio = model.run_projector(encoded.captured)
        (text,) = model.generate([model.prompt(audio, around)], [count])
        asked.append((audio, np.array(text.tokens)))

    def compute(other: granite_gguf.Model) -> Logits:
        found = [other.logits(other.prompt(audio, around), tokens) for audio, tokens in asked]
        return np.concatenate(found).astype(np.float64)

    return compute


def edited(model: granite_gguf.Model, recordings: list[Path]) -> Compute:
    """What the editor is asked: audio tokens, and the hypothesis with a slot beside each token."""
    editor, asked = model.hparams.editor, []
    for path in recordings:
        encoded = model.run_encoder(model.compute_mel(model.load_audio(path)))
        tokens = model.run_hypothesis(encoded.final, encoded.blank)
        ids = np.full(max(2 * len(tokens) + 1, editor.min_edit_length), editor.eos_token_id)
        ids[1 : 2 * len(tokens) : 2] = tokens
        asked.append((model.run_projector(encoded.captured), ids))

    def compute(other: granite_gguf.Model) -> Logits:
        tap = "editing_logits"
        found = [other.run_editor(*each, frozenset({tap})).taps[tap] for each in asked]
        return np.concatenate(found).astype(np.float64)

    return compute


def probabilities(logits: Logits) -> Logits:
    """Their logarithms, ``(rows, vocabulary)``."""
    shifted: Logits = logits - logits.max(axis=1, keepdims=True)
    found: Logits = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found


def compare(found: Logits, expected: Logits) -> tuple[float, float, float]:
    """1 - mean cosine, mean divergence, and the share of equal best tokens."""
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    cosines = (found * expected).sum(axis=1) / norms
    p, q = probabilities(expected), probabilities(found)
    divergence = (np.exp(p) * (p - q)).sum(axis=1)
    same = (found.argmax(axis=1) == expected.argmax(axis=1)).mean()
    return float(1 - cosines.mean()), float(divergence.mean()), float(same)


def run(name: str, compute: Compute, source: Path, path: Path, threads: int | None) -> Logits:
    """The logits of a variant, whose embedding may be quantized for one of its uses alone."""
    computed, rows = (source, path) if name.startswith("embedding, its rows") else (path, path)
    rows = source if name.startswith("embedding, the head") else rows
    file = open_model_file(rows)

    def read_rows(
        _weights: ModelWeights, matrix: str, ids: npt.NDArray[np.integer]
    ) -> npt.NDArray[np.float32]:
        return file.read_rows(matrix, ids)

    with (
        patch.object(ModelWeights, "read_rows", read_rows),
        granite_gguf.load(computed, threads=threads) as model,
    ):
        return compute(model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("audio", type=Path, nargs="+")
    parser.add_argument("--type", default="q4_k", help="of the groups")
    parser.add_argument("--tokens", type=int, default=32, help="said after a prompt, at most")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    with granite_gguf.load(args.source, threads=args.threads) as model:
        edits = model.file.format is NAR
        compute = edited(model, args.audio) if edits else said(model, args.audio, args.tokens)
        expected = compute(model)
        tied = edits or model.hparams.llm.tie_word_embeddings
        matrix = f"{'llm.' if edits else ''}blk.0.attn_q.weight"
        kept = model.file.info(matrix).type.name.lower()
    print(f"{len(expected)} rows of logits\n")
    print("| in fewer bits | MB saved | 1 - cosine | per MB | divergence | best token |")
    print("|---|" + "---:|" * 5, flush=True)
    path, size = args.work / "variant.gguf", args.source.stat().st_size
    for name, overrides in variants(args.type, tied=tied).items():
        chosen = [parse_override(text) for text in overrides]
        quantize(args.source, path, kept, overrides=chosen, force=True)
        found = run(name, compute, args.source, path, args.threads)
        saved = (size - path.stat().st_size) / 1e6
        error, divergence, same = compare(found, expected)
        cells = (f"{saved:.2f}", f"{error:.1e}", f"{error / saved:.1e}", f"{divergence:.1e}")
        print(f"| {name} | {' | '.join(cells)} | {same:.3f} |", flush=True)
    path.unlink()


if __name__ == "__main__":
    main()
