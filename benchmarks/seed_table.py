"""What each published kind of file of the autoregressive model keeps, against PyTorch in float32.

python benchmarks/seed_table.py CHECKPOINT AUDIO WORK

Converts a checkpoint to F16, quantizes that to Q4_K, alone, with `--enc-f16` and with
`--quant-all`, and prints the cosines of mel, encoder output and audio rows as a Markdown table,
beside those that the publisher's own program found of its files (taken over another dimension, so
that they compare only roughly). Encoder and projector each run from PyTorch's inputs; the last
column is the projector behind this file's own encoder. The reference has no language model in
memory: of the released size it takes 2 GB. Files stay in WORK and are used again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import granite_gguf
from granite_gguf.arrays import FloatArray
from granite_gguf.converters import convert
from granite_gguf.parity import Recorded, compare, diff_model
from granite_gguf.quantize import Scope, quantize
from granite_gguf.recorded.outputs import Names
from granite_gguf.sound.reading import read_audio

# Encoder and projector, of the base model's files of that kind.
PUBLISHED = {
    "F16": (0.9999, 0.999995),
    "Q4_K": (0.9999, 0.999995),
    "Q4_K --enc-f16": (0.99986, 0.999993),
    "Q4_K --quant-all": (0.929, 0.922),
}
_SCOPES = {"Q4_K": Scope.EDITOR, "Q4_K --enc-f16": Scope.ENC_F16, "Q4_K --quant-all": Scope.ALL}
STAGES = (Names.MEL, Names.ENCODER_OUTPUT, Names.PROJECTOR_OUTPUT)


def record_to_audio_rows(checkpoint: Path, samples: FloatArray) -> Recorded:
    """The stages before the language model, in PyTorch."""
    from granite_gguf.reference.recording import SPEECH_ARCHITECTURE as ARCHITECTURE
    from granite_gguf.reference.speech.pipeline import SpeechReference

    reference = SpeechReference(checkpoint)
    mel = reference.mel(samples)
    output = reference.encoder_output(reference.encode(mel))
    arrays = {
        Names.RAW_AUDIO: samples,
        Names.MEL: mel,
        Names.ENCODER_OUTPUT: output,
        Names.PROJECTOR_OUTPUT: reference.project(output),
    }
    return Recorded(str(checkpoint), ARCHITECTURE, arrays)


def file_of(kind: str, checkpoint: Path, work: Path) -> Path:
    """A kind's file, made where it is not there."""
    path = work / f"{kind.replace(' --', '-')}.gguf"
    if path.exists():
        return path
    if kind == "F16":
        convert(checkpoint, path)
    else:
        quantize(file_of("F16", checkpoint, work), path, "q4_k", scope=_SCOPES[kind])
    return path


def cells(path: Path, recorded: Recorded) -> list[str]:
    """Of one row: the file's size, the stages, and the projector behind the encoder."""
    samples = recorded.arrays[Names.RAW_AUDIO]
    with granite_gguf.load(path) as model:
        results = diff_model(model, recorded, samples, stages=STAGES)
        encoded = model.stages.run_encoder(model.stages.compute_mel(samples))
        projected = model.stages.run_projector(encoded.captured)
    whole = compare(projected, recorded.arrays[Names.PROJECTOR_OUTPUT])
    comparisons = [*(result.comparison for result in results), whole]
    found = [f"{c.cos_min:.6f} ({c.cos_mean:.6f})" if c else "-" for c in comparisons]
    return [f"{path.stat().st_size / 1e9:.3f}", *found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("audio", type=Path)
    parser.add_argument("work", type=Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    recorded = record_to_audio_rows(args.checkpoint, read_audio(args.audio, 16_000))
    print("| file | GB | mel, lowest (mean) | encoder output | audio rows | audio rows, end to end "
          "| published encoder | published audio rows |\n|---|" + "---:|" * 7)  # fmt: skip
    for kind, published in PUBLISHED.items():
        row = [kind, *cells(file_of(kind, args.checkpoint, args.work), recorded)]
        print(f"| {' | '.join([*row, *map(str, published)])} |", flush=True)


if __name__ == "__main__":
    main()
