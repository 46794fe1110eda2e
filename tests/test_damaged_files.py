"""Damaged and hostile model files: an error of the package's own, or a correct run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import granite_gguf
from granite_gguf import GraniteError, ModelFileError
from granite_gguf.architectures import open_model_file
from granite_gguf.demo import DEMO_MODEL, DEMO_SAMPLES
from granite_gguf.ggml.types import GGMLType
from granite_gguf.placing.finite import stored_finite
from granite_gguf.quantize import quantize, read_importance
from tests.fuzzing.fuzz_targets import MESSAGE_LIMIT, TARGETS, try_file
from tests.gguf_editing import rewrite
from tests.signals import synthetic_audio
from tests.support.gguf_mutator import Sound, mutate, put_together, take_apart

U32 = gguf.GGUFValueType.UINT32


@pytest.fixture(scope="module")
def sound(f32_files: dict[str, Path]) -> Sound:
    return take_apart(f32_files["nle"])


@pytest.fixture(scope="module")
def damage(sound: Sound) -> Callable[[int], tuple[bytes, str]]:
    return lambda seed: mutate(sound, seed)


def test_the_mutator_changes_nothing_by_itself(
    sound: Sound, f32_files: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "same.gguf"
    path.write_bytes(put_together(sound.copy()))
    ours, theirs = open_model_file(path), open_model_file(f32_files["nle"])
    assert ours.hparams == theirs.hparams
    assert ours.container.metadata == theirs.container.metadata
    for name in theirs.specs:
        np.testing.assert_array_equal(ours.container.raw(name), theirs.container.raw(name))
    assert mutate(sound, 7) == mutate(sound, 7) != mutate(sound, 8)


@pytest.mark.slow
@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 2**40))
def test_a_damaged_file_is_refused_or_runs(
    damage: Callable[[int], tuple[bytes, str]], tmp_path: Path, seed: int
) -> None:
    raw, _ = damage(seed)
    path = tmp_path / "damaged.gguf"
    path.unlink(missing_ok=True)
    path.write_bytes(raw)
    assert try_file(path, synthetic_audio(4000, seed=1)) in ("refused", "not run", "ran")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["reference", "imatrix"])
def test_other_damaged_files_are_refused_or_used(
    f32_files: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    """Reference files as `diff` uses them, importance matrices as `quantize` does."""
    model = tmp_path / "model.gguf"
    model.write_bytes(f32_files["nle"].read_bytes())
    undamaged = TARGETS[kind].sound(model)
    whole, seen = take_apart(undamaged), set()
    with ExitStack() as stack:
        attempt = TARGETS[kind].attempt(stack, model)
        assert attempt(undamaged) == "ran"
        for seed in range(100):
            path = tmp_path / "damaged"
            path.unlink(missing_ok=True)
            path.write_bytes(mutate(whole, seed)[0])
            seen.add(attempt(path))
    assert {"refused", "ran"} <= seen <= {"refused", "not run", "ran"}


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("imatrix.chunk_count", [1, 2], gguf.GGUFValueType.ARRAY),
        ("imatrix.chunk_count", -1, gguf.GGUFValueType.INT32),
        ("imatrix.datasets", [1, 2], gguf.GGUFValueType.ARRAY),
    ],
)
def test_importance_matrices_of_wrong_types(
    f32_files: dict[str, Path], tmp_path: Path, key: str, value: object, kind: gguf.GGUFValueType
) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(f32_files["nle"].read_bytes())
    whole = take_apart(TARGETS["imatrix"].sound(model))
    pair = next(pair for pair in whole.pairs if pair.key == key.encode())
    listed = kind is gguf.GGUFValueType.ARRAY
    pair.type, pair.value, pair.element = int(kind), value, int(U32) if listed else None
    path = tmp_path / "damaged"
    path.write_bytes(put_together(whole))
    with pytest.raises(ModelFileError, match=key):
        read_importance(path)


def test_the_fuzzer_survives_and_reports_faults(tmp_path: Path) -> None:
    """A deadline that no file can keep stands for a hang: every case is a fault, none is lost."""
    command = [sys.executable, "tests/fuzzing/fuzz.py", "--count", "4", "--processes", "1"]
    good = subprocess.run(command, capture_output=True, text=True, check=False)
    assert good.returncode == 0 and good.stdout.startswith("4 files"), good.stderr
    hung = subprocess.run(
        [*command, "--deadline", "0"], capture_output=True, text=True, check=False
    )
    assert hung.returncode == 1 and "deadline" in hung.stdout, hung.stderr


@pytest.fixture
def scratch(f32_files: dict[str, Path], tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "changed.gguf"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("granite_nle.enc.bpe_pooling_window", 10**9),
        ("granite_nle.enc.bpe_pooling_window", 0),
        ("granite_nle.sample_rate", 2**32 - 1),
        ("granite_nle.hop_length", 1),
        ("granite_nle.min_edit_length", 2**32 - 1),
        ("granite_nle.llm.max_positions", 2**32 - 1),
    ],
)
def test_absurd_numbers_are_named(
    f32_files: dict[str, Path], scratch: Path, key: str, value: int
) -> None:
    rewrite(f32_files["nle"], scratch, replace={key: (value, U32)})
    name = key.rpartition(".")[2].removeprefix("bpe_")
    with pytest.raises(ModelFileError, match=f"{name} is {value}"):
        open_model_file(scratch)


def test_a_pooling_window_of_one_runs(f32_files: dict[str, Path], scratch: Path) -> None:
    key = "granite_nle.enc.bpe_pooling_window"
    rewrite(f32_files["nle"], scratch, replace={key: (1, U32)})
    with granite_gguf.load(scratch, threads=1) as model:
        mel = model.compute_mel(synthetic_audio(8000, seed=1))
        encoded = model.run_encoder(mel)
        assert len(model.run_hypothesis_head(encoded.final, encoded.blank).ids) == len(mel)


def test_unit_dimensions_anywhere_change_nothing(
    f32_files: dict[str, Path], sound: Sound, scratch: Path
) -> None:
    changed = sound.copy()
    for n, entry in enumerate(changed.entries):
        if len(entry.shape) < 4:
            at = n % (len(entry.shape) + 1)
            entry.shape = (*entry.shape[:at], 1, *entry.shape[at:])
    scratch.write_bytes(put_together(changed))
    audio = synthetic_audio(16_000, seed=2)
    with granite_gguf.load(scratch) as a, granite_gguf.load(f32_files["nle"]) as b:
        assert a.transcribe(audio).text == b.transcribe(audio).text != ""


def test_messages_are_short_and_printable(sound: Sound, scratch: Path) -> None:
    for value in ("x" * 10**6, "\x1b[31m\n" * 10**5, "9," * 10**5):
        for key in (b"general.architecture", b"granite_nle.proj.encoder_layer_indices"):
            changed = sound.copy()
            next(pair for pair in changed.pairs if pair.key == key).value = value
            scratch.write_bytes(put_together(changed))
            with pytest.raises(GraniteError) as raised:
                open_model_file(scratch)
            assert len(str(raised.value)) < MESSAGE_LIMIT and str(raised.value).isprintable()


def test_names_cannot_reach_the_terminal_raw(sound: Sound, scratch: Path) -> None:
    changed = sound.copy()
    changed.entries[3].name = b"enc\x0e\x1b[31m.blk"
    scratch.write_bytes(put_together(changed))
    with pytest.raises(ModelFileError, match=r"enc\\x0e\\x1b\[31m\.blk") as raised:
        open_model_file(scratch)
    assert str(raised.value).isprintable()


# Numbers that are not finite


MATRICES = [
    "enc.input.weight",
    "enc.blk.1.attn_q.weight",
    "enc.ctc_out.bias",
    "enc.bpe_out.weight",
    "enc.blk.0.conv_bn.running_var",
    "proj.query",
    "proj.blk.1.mlp_fc1.weight",
    "llm.blk.0.ffn_gate.weight",
    "llm.blk.1.attn_norm.weight",
    "llm.norm.weight",
]


def spoilt(
    name: str, at: tuple[int, ...] | None, value: float = np.nan
) -> Callable[[str, np.ndarray], np.ndarray]:
    """Puts a value into one tensor, by default in its middle."""

    def spoil(tensor: str, array: np.ndarray) -> np.ndarray:
        if tensor == name:
            array = array.copy()
            array[np.unravel_index(array.size // 2, array.shape) if at is None else at] = value
        return array

    return spoil


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("quantized", [False, True])
def test_no_text_comes_of_what_is_not_finite(
    f32_files: dict[str, Path], tmp_path: Path, name: str, value: float, quantized: bool
) -> None:
    def retype(tensor: str, array: np.ndarray) -> gguf.GGMLQuantizationType | None:
        """Everything else in 8 bits, whose kernels can lose a NaN on the way."""
        plain = array.ndim != 2 or array.shape[-1] % 32 or tensor == name or "rel_pos" in tensor
        return None if plain or not quantized else GGMLType.Q8_0

    bad = rewrite(
        f32_files["nle"], tmp_path / "bad.gguf", edit=spoilt(name, None, value), retype=retype
    )
    with (
        pytest.raises(ModelFileError, match="NaN or infinity"),
        granite_gguf.load(bad, threads=1) as model,
    ):
        model.transcribe(synthetic_audio(16_000, seed=3))


def test_a_single_logit_that_is_not_finite_is_found(
    f32_files: dict[str, Path], tmp_path: Path
) -> None:
    """One row of the tied embeddings, of a token that the text does not hold."""
    bad = rewrite(
        f32_files["nle"], tmp_path / "bad.gguf", edit=spoilt("llm.token_embd.weight", (300, 5))
    )
    with granite_gguf.load(bad, threads=1) as model:
        audio_tokens = np.zeros((3, model.hparams.editor.d_model), np.float32)
        with pytest.raises(ModelFileError, match=r"bad\.gguf: the editor computed NaN"):
            model.run_editor(audio_tokens, np.arange(9))


@pytest.mark.parametrize(
    "kind",
    [
        *(GGMLType.Q8_0, GGMLType.Q6_K, GGMLType.Q5_K, GGMLType.Q4_K, GGMLType.Q3_K),
        *(GGMLType.Q2_K, GGMLType.Q5_0, GGMLType.Q5_1, GGMLType.Q4_0, GGMLType.Q4_1),
        *(GGMLType.IQ4_NL, GGMLType.IQ4_XS, GGMLType.F32, GGMLType.F16, GGMLType.BF16),
    ],
)
def test_scales_are_looked_at_where_the_decoder_reads_them(kind: GGMLType) -> None:
    """Random bytes: found sound exactly where gguf-py decodes finite numbers alone."""
    rng = np.random.default_rng(int(kind))
    size = gguf.GGML_QUANT_SIZES[kind][1]
    seen = set()
    for _ in range(3000):
        block = rng.integers(0, 256, size, np.uint8)
        with np.errstate(all="ignore"):
            decoded = np.asarray(gguf.quants.dequantize(block, kind), np.float32)
        # A finite scale times its quants can overflow nothing that float32 cannot hold.
        expected = bool(np.isfinite(decoded).all())
        assert stored_finite(block, kind) == expected
        seen.add(expected)
    assert seen == {True, False}


def test_the_shipped_model_with_a_spoilt_scale(tmp_path: Path) -> None:
    changed = take_apart(DEMO_MODEL)
    entry = next(e for e in changed.entries if e.name == b"llm.blk.0.ffn_down.weight")
    data = bytearray(changed.data)
    data[entry.offset + 208 : entry.offset + 210] = b"\x00\x7e"
    changed.data = bytes(data)
    path = tmp_path / "bad.gguf"
    path.write_bytes(put_together(changed))
    # Integer kernels may lose it on the way, so that loading finds it; others hand it on.
    found = r"llm\.blk\.0\.ffn_down\.weight holds NaN|the editor computed NaN"
    with pytest.raises(ModelFileError, match=found), granite_gguf.load(path, threads=1) as model:
        model.transcribe(DEMO_SAMPLES[0])


def test_quantize_refuses_what_is_not_finite(f32_files: dict[str, Path], tmp_path: Path) -> None:
    bad = rewrite(
        f32_files["nle"], tmp_path / "bad.gguf", edit=spoilt("llm.blk.0.ffn_gate.weight", (3, 5))
    )
    with pytest.raises(GraniteError, match=r"llm\.blk\.0\.ffn_gate\.weight"):
        quantize(bad, tmp_path / "out.gguf", "q8_0")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.gguf"]
