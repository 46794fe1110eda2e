"""What each quantization costs and saves: sizes and cosines by stage against the source file.

python benchmarks/quantization.py SOURCE.gguf AUDIO WORK [--only NAME ...] [--imatrix AUDIO ...]

Quantizes SOURCE (best BF16 or F32) in every way of VARIANTS into WORK, runs each stage from the
source's own outputs and prints a Markdown table. `published-mini` imitates the smallest published
file: every two-dimensional tensor Q4_K, those whose rows are no multiple of 256 Q4_0 or F32,
pointwise convolutions F32. Files stay in WORK and are used again.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import granite_gguf
from granite_gguf.parity import Recorded, diff_model, record
from granite_gguf.placing.kernel_choice import Precision
from granite_gguf.quantize import Scope, collect_importance, parse_override, quantize
from granite_gguf.sound.reading import read_audio


@dataclass(frozen=True)
class Variant:
    """One way to quantize."""

    quant: str
    scope: Scope = Scope.EDITOR
    overrides: tuple[str, ...] = ()
    imatrix: bool = False


PUBLISHED_MINI = (
    "attn_rel_pos=q4_0",
    r"^enc\.input\.weight=q4_0",
    r"^enc\.ctc_mid\.weight=f32",
    r"^enc\.ctc_out\.weight=q4_k",
    r"^proj\.(query|window_positions)=q4_k",
    r"conv_(up|down)\.weight=f32",
    r"^proj\.(layer_proj|out_linear|blk\..*(attn_.|mlp_fc.))\.weight=q4_k",
    r"(bpe_out|token_embd)\.weight=q4_k",
)

VARIANTS = {
    "published-mini": Variant("q4_k", Scope.ALL, PUBLISHED_MINI),
    "q4_k --quant-all": Variant("q4_k", Scope.ALL),
    "q4_k --quant-all --imatrix": Variant("q4_k", Scope.ALL, imatrix=True),
    "q4_k_m --quant-all": Variant("q4_k_m", Scope.ALL),
    "q5_k --quant-all": Variant("q5_k", Scope.ALL),
    "q8_0 --quant-all": Variant("q8_0", Scope.ALL),
    "q4_k": Variant("q4_k"),
    "q4_k --imatrix": Variant("q4_k", imatrix=True),
    "q4_k_m --enc-f16": Variant("q4_k_m", Scope.ENC_F16),
    "q4_k_m --enc-bf16": Variant("q4_k_m", Scope.ENC_BF16),
    "q4_k_m --enc-q8": Variant("q4_k_m", Scope.ENC_Q8),
    # One group of the encoder at a time, the rest as in the source: which hurts most?
    "only ff": Variant("f32", overrides=(r"enc\.blk.*ff\d_\w+\.weight=q4_k",)),
    "only attn_q, attn_kv": Variant("f32", overrides=(r"enc\.blk.*attn_(q|kv)\.weight=q4_k",)),
    "only attn_out": Variant("f32", overrides=(r"enc\.blk.*attn_out\.weight=q4_k",)),
    "only conv_up": Variant("f32", overrides=(r"enc\.blk.*conv_up\.weight=q4_k",)),
    "only conv_down": Variant("f32", overrides=(r"enc\.blk.*conv_down\.weight=q4_k",)),
    "only enc.input": Variant("f32", overrides=(r"enc\.input\.weight=q4_0",)),
    "only attn_rel_pos": Variant("f32", overrides=("attn_rel_pos=q4_0",)),
}


def file_of(work: Path, name: str) -> Path:
    return work / f"{name.replace('--', '').replace(',', '').replace(' ', '-')}.gguf"


def make(source: Path, work: Path, name: str, imatrix: Path | None) -> tuple[Path, float]:
    """The variant's file, and the seconds it took; 0 where it was there."""
    variant, path = VARIANTS[name], file_of(work, name)
    if path.exists():
        return path, 0.0
    started = time.perf_counter()
    quantize(
        source,
        path,
        variant.quant,
        scope=variant.scope,
        overrides=[parse_override(text) for text in variant.overrides],
        imatrix=imatrix if variant.imatrix else None,
    )
    return path, time.perf_counter() - started


def measure(
    path: Path, recorded: Recorded, audio: Path, precision: str = Precision.EXACT
) -> list[str]:
    """Cells of one row: size, then the stages."""
    with granite_gguf.load(path, precision=precision) as model:
        samples = read_audio(audio, model.hparams.front_end.sample_rate)
        results = {result.name: result for result in diff_model(model, recorded, samples)}
    cells = [f"{path.stat().st_size / 1e9:.3f}"]
    for name in ("encoder_output", "bpe_logits", "projector_output", "editing_logits"):
        comparison = results[name].comparison
        cells.append("-" if comparison is None else
                     f"{comparison.cos_min:.5f} ({comparison.cos_mean:.5f})")  # fmt: skip
    for name in ("hypothesis", "editing_logits_top1", "transcribe"):
        cells.append(f"{results[name].agreement or 0.0:.3f}")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("audio", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--imatrix", type=Path, nargs="+", help="recordings to weigh columns by")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    imatrix = None
    with granite_gguf.load(args.source) as model:
        recorded = record(model, read_audio(args.audio, model.hparams.front_end.sample_rate))
        if args.imatrix:
            imatrix = args.work / "imatrix.gguf"
            collect_importance(model, args.imatrix, imatrix, force=True)
    print("| policy | GB | encoder_output min (mean) | bpe_logits | projector | editor logits "
          "| hypothesis | editor top-1 | transcript | made in, s |")  # fmt: skip
    print("|---|" + "---:|" * 9)
    for name in args.only:
        if VARIANTS[name].imatrix and imatrix is None:
            continue
        path, seconds = make(args.source, args.work, name, imatrix)
        cells = [*measure(path, recorded, args.audio), f"{seconds:.0f}" if seconds else "-"]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
