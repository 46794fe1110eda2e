"""Expected outputs of every stage, from the PyTorch reference on small random checkpoints.

    python -m tests.make_expected            write tests/expected/*.npz
    python -m tests.make_expected --check    recompute and compare; exit code 1 on a difference

Needs the reference extra. Regenerate only when the tiny checkpoints, the signal or the definition
of the model change, and say so in the commit.

A file is one case, LAYOUT-SAMPLES.npz, readable without pickle:

    layout, n_samples, seed    the input: synthetic_audio(n_samples, seed) through
                               make_checkpoint(layout=layout, size="tiny", seed=0, dtype="f32")
    text, hypothesis_text      strings
    bpe_ids, hypothesis_ids, text_ids_with_slots, edited_ids   whole
    blank_prob                 whole
    STAGE, STAGE_rows          float32 values of the chosen rows and their indices, and
    STAGE_length               how many rows the stage has
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from granite_gguf.reference import Reference, Stages
from tests.signals import synthetic_audio
from tests.support.make_checkpoint import make_checkpoint

EXPECTED = Path(__file__).parent / "expected"
LAYOUTS = ("nle", "granite_speech_nar", "native")

AUDIO_SEED = 2  # capitals and a leading space: the first release normalises them away
FRAME = 320  # samples
# No frame; one frame; no audio token (T = 3); a partial second window of pooling (T = 5, 6); one
# projector window; one frame less than an attention block, exactly one, one more; blocks and a
# rest that is no multiple of anything. The native layout makes one frame more of these from 319 on.
SAMPLES = (
    *(0, 100, 256, 319),
    *(FRAME, 3 * FRAME + 17, 5 * FRAME, 6 * FRAME + 17, 15 * FRAME),
    *(199 * FRAME, 200 * FRAME, 201 * FRAME + 159),
    437 * FRAME + 230,
)

FLOAT_STAGES = (
    *("mel_spectrogram", "encoder_output", "encoder_final", "encoder_logits", "pooled"),
    *("bpe_logits", "projector_output", "audio_embs_for_llm", "editing_logits"),
)
WHOLE = ("blank_prob", "bpe_ids", "hypothesis_ids", "text_ids_with_slots", "edited_ids")

BORDERS = (0, 199, 200, 198, 201, 399, 400, 1)  # of attention blocks, the telling ones first
ROWS, WIDE_ROWS, WIDE = 16, 6, 200  # rows kept of a stage, and of one wider than WIDE

# Float32 noise of another machine stays far below these.
MIN_COSINE = 0.9999999
NORM_TOLERANCE = 1e-5
MIN_MARGIN = 1e-4  # of the best logit over the second: ids must not hang on noise


def chosen_rows(length: int, width: int) -> NDArray[np.int64]:
    """Rows worth keeping: the last, borders of blocks, and an even spread over the rest."""
    count = WIDE_ROWS if width > WIDE else ROWS
    if length <= count:
        return np.arange(length)
    borders = [row for row in BORDERS if row < length]
    spread = np.linspace(1, length - 2, count).astype(int).tolist()
    candidates = dict.fromkeys([length - 1, *borders, *spread])  # in order, each once
    return np.array(sorted([*candidates][:count]))


def case_arrays(layout: str, n_samples: int, stages: Stages) -> dict[str, NDArray[Any]]:
    """What is stored of one run."""
    arrays = stages.arrays()
    case: dict[str, NDArray[Any]] = {
        "layout": np.array(layout),
        "n_samples": np.array(n_samples),
        "seed": np.array(AUDIO_SEED),
        "text": np.array(stages.text),
        "hypothesis_text": np.array(stages.hypothesis_text),
    }
    case.update({name: arrays[name] for name in WHOLE})
    for name in FLOAT_STAGES:
        rows = chosen_rows(*arrays[name].shape)
        case[name] = arrays[name][rows].astype(np.float32)
        case[f"{name}_rows"] = rows
        case[f"{name}_length"] = np.array(len(arrays[name]))
    return case


def cases() -> Iterator[tuple[str, dict[str, NDArray[Any]], Stages]]:
    """Run every case; yield (name, what is stored of it, all its stages)."""
    audio = synthetic_audio(max(SAMPLES), AUDIO_SEED)  # a shorter one is its start
    for layout in LAYOUTS:
        with tempfile.TemporaryDirectory() as directory:
            make_checkpoint(directory, layout=layout, size="tiny", seed=0, dtype="f32")
            reference = Reference.from_checkpoint(directory)
        for n_samples in SAMPLES:
            stages = reference.run(audio[:n_samples])
            yield f"{layout}-{n_samples}", case_arrays(layout, n_samples, stages), stages


def smallest_margin(logits: NDArray[Any]) -> float:
    """Lead of the best logit of (rows, V) over the second, in the closest row."""
    if not len(logits):
        return np.inf
    best = np.partition(logits, -2, axis=-1)[:, -2:]
    return float((best[:, 1] - best[:, 0]).min())


def row_cosines(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Cosine of each row of (rows, features) with its counterpart; of two zero rows it is 1."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    dots = (x * y).sum(axis=-1)
    both_zero = ~(x.any(axis=-1) | y.any(axis=-1))
    return np.where(both_zero, 1.0, dots / np.where(norms == 0, 1.0, norms))


def differences(expected: dict[str, NDArray[Any]], found: dict[str, NDArray[Any]]) -> Iterator[str]:
    """Complaints about one case: ids and strings must be equal, floats the same up to noise."""
    if expected.keys() != found.keys():
        yield f"stored names differ: {sorted(expected.keys() ^ found.keys())}"
        return
    for name, wanted in expected.items():
        value = found[name]
        if wanted.shape != value.shape:
            yield f"{name}: shape {value.shape}, expected {wanted.shape}"
        elif name == "blank_prob":
            if not np.allclose(value, wanted, atol=1e-5):
                yield f"{name}: off by {np.abs(value - wanted).max():.2g}"
        elif name not in FLOAT_STAGES:
            if not np.array_equal(value, wanted):
                yield f"{name}: {_short(value)}, expected {_short(wanted)}"
        elif len(wanted):
            cosine = row_cosines(value, wanted).min()
            norms, wanted_norms = (np.linalg.norm(x, axis=-1) for x in (value, wanted))
            drift = np.abs(norms / np.maximum(wanted_norms, 1e-30) - 1).max()
            if cosine < MIN_COSINE or drift > NORM_TOLERANCE:
                yield f"{name}: lowest cosine {cosine:.9f}, norms off by {drift:.2g}"


def _short(array: NDArray[Any]) -> str:
    """An array in at most one line of a report."""
    text = str(array.tolist())
    return text if len(text) <= 60 else f"{text[:57]}..."


def write() -> int:
    """Write every case; refuse one whose ids hang on a rounding error."""
    EXPECTED.mkdir(exist_ok=True)
    made = list(cases())
    for name, _, stages in made:
        margin = min(smallest_margin(stages.bpe_logits), smallest_margin(stages.editing_logits))
        if margin < MIN_MARGIN:
            print(f"{name}: the best logit leads by {margin:.2g} only: change AUDIO_SEED")
            return 1
    for path in EXPECTED.glob("*.npz"):
        path.unlink()
    for name, case, _ in made:
        np.savez_compressed(EXPECTED / f"{name}.npz", allow_pickle=False, **case)
    size = sum(path.stat().st_size for path in EXPECTED.glob("*.npz"))
    print(f"{len(made)} cases, {size:,} bytes in {EXPECTED}")
    return 0


def check() -> int:
    """Recompute every case and report how it differs from its file."""
    left = {path.stem for path in EXPECTED.glob("*.npz")}
    failed = False
    for name, case, _ in cases():
        if name not in left:
            failed = True
            print(f"{name}: no file in {EXPECTED}")
            continue
        left.remove(name)
        with np.load(EXPECTED / f"{name}.npz") as file:
            complaints = list(differences(dict(file), case))
        for complaint in complaints:
            failed = True
            print(f"{name}: {complaint}")
    for name in sorted(left):
        failed = True
        print(f"{name}: a file, but no such case")
    return int(failed)


def main() -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description="Write or check the expected stage outputs.")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    return check() if parser.parse_args().check else write()


if __name__ == "__main__":
    sys.exit(main())
