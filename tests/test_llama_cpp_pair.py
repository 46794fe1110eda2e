"""Pairs of files for llama.cpp, written through gguf-py's tables of names."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from granite_gguf import Model, ModelFileError, UnsupportedModelError, load
from granite_gguf.architectures import open_model_file
from granite_gguf.converters import convert, convert_gguf
from granite_gguf.demo import DEMO_SAMPLES
from granite_gguf.errors import GraniteError, InputError
from granite_gguf.quantize import quantize
from granite_gguf.tokenizer import load_tokenizer
from tests.commands import run
from tests.fuzzing.fuzz_targets import check_message
from tests.gguf_reading import decoded, fields
from tests.signals import synthetic_audio
from tests.support.dialect_file import GGML, Kind, read_safetensors, write_dialect_file
from tests.support.gguf_mutator import mutate, take_apart
from tests.support.make_speech_checkpoint import make_speech_checkpoint
from tests.support.speech_files import llama_cpp_audio, llama_cpp_audio_type, llama_cpp_text

pytestmark = pytest.mark.skipif(
    not hasattr(gguf.MODEL_TENSOR, "A_QF_PROJ_QUERY"), reason="gguf-py does not know the model"
)

NAMES = {"base": "Granite Speech 4.1 2B", "plus": "Granite Speech 4.1 2B Plus"}
Pair = tuple[Path, Path]
Types = Callable[[str], gguf.GGMLQuantizationType]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pair")
    for layout in NAMES:
        make_speech_checkpoint(root / f"granite-speech-4.1-2b-{layout}", layout=layout)
    return {layout: root / f"granite-speech-4.1-2b-{layout}" for layout in NAMES}


@pytest.fixture(scope="module")
def ours(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("ours")
    return {
        layout: convert(path, root / f"{layout}.gguf", outtype="f32").path
        for layout, path in checkpoints.items()
    }


@pytest.fixture
def write(checkpoints: dict[str, Path], tmp_path: Path) -> Callable[..., Pair]:
    """Writes a pair with changed metadata and tensors; None leaves one out."""

    def change(
        layout: str = "base",
        changed: dict[str, Any] | None = None,
        audio_types: Types = lambda _name: GGML.F32,
        text_types: Types = lambda _name: GGML.F32,
    ) -> Pair:
        text = llama_cpp_text(checkpoints[layout], NAMES[layout])
        audio = llama_cpp_audio(checkpoints[layout])
        files = (
            ("text.gguf", "granite", text, text_types),
            ("mmproj.gguf", "clip", audio, audio_types),
        )
        paths = []
        for name, architecture, parts, types in files:
            kept = [{k: (changed or {}).get(k, v) for k, v in part.items()} for part in parts]
            metadata, tensors = [{k: v for k, v in p.items() if v is not None} for p in kept]
            path = tmp_path / name
            write_dialect_file(path, metadata, tensors, types, architecture=architecture)
            paths.append(path)
        return paths[0], paths[1]

    return change


def assert_our_tensors(path: Path, mmproj: Path | None, expected: dict[str, np.ndarray]) -> None:
    """All as our converter makes them of the checkpoint, batch norms by what they do."""
    file = open_model_file(path, mmproj)
    assert file.specs.keys() == expected.keys()
    for name, values in expected.items():
        if "conv_bn" not in name:
            found = file.read(name)
            np.testing.assert_array_equal(found, values.reshape(found.shape), err_msg=name)
    x = np.linspace(-3, 3, 7, dtype=np.float64)[:, None]
    for n in range(file.hparams.encoder.n_layers):
        at = f"enc.blk.{n}.conv_bn."
        norms = [
            (x - f(at + "running_mean")) / np.sqrt(np.float64(1e-5) + f(at + "running_var"))
            * f(at + "weight") + f(at + "bias")
            for f in (file.read, expected.__getitem__)
        ]  # fmt: skip
        np.testing.assert_allclose(norms[0], norms[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layout", NAMES)
def test_a_pair_is_the_model(
    layout: str, ours: dict[str, Path], write: Callable[..., Pair], tmp_path: Path
) -> None:
    """The same numbers and tensors as of the checkpoint, read directly and converted."""
    text, mmproj = write(layout)
    file, own = open_model_file(text, mmproj), open_model_file(ours[layout])
    for stage in ("front_end", "encoder", "draft", "projector", "llm", "adapter"):
        assert getattr(file.hparams, stage) == getattr(own.hparams, stage), stage
    expected = decoded(ours[layout])
    assert_our_tensors(text, mmproj, expected)
    result = convert_gguf(text, tmp_path / "m.gguf", mmproj=mmproj, revision="r1")
    assert_our_tensors(result.path, None, expected)
    converted = open_model_file(result.path)
    assert converted.hparams == own.hparams == result.hparams
    found, keys = fields(result.path), fields(ours[layout])
    assert not any(key.startswith(("granite.", "clip.")) for key in found)
    beside = {"tokenizer.huggingface.json", "tokenizer.ggml.token_type"}
    for key in keys.keys() - beside:
        if key.startswith(("granite_speech.", "tokenizer.")) and not key.endswith(".pre"):
            assert found[key] == keys[key], key
    assert found["tokenizer.ggml.pre"] == {"base": "dbrx", "plus": "gpt-2"}[layout]
    assert found["granite_speech.source.architecture"] == "granite"
    assert found["granite_speech.source.file"] == "text.gguf"
    assert found["general.name"] == NAMES[layout]
    ids = [load_tokenizer(f).encode("can you 2024?\n").tolist() for f in (file, converted)]
    assert ids[0] == ids[1]
    with pytest.raises(UnsupportedModelError, match="is a granite_speech file already"):
        convert_gguf(result.path, tmp_path / "again.gguf")


def rotated(rows: npt.NDArray[np.float64], position: int, pairs: str) -> npt.NDArray[np.float64]:
    """A head's numbers turned by their angles, in neighbouring pairs or in both halves."""
    half = len(rows) // 2
    angles = position / 10_000 ** (np.arange(half) / half)
    if pairs == "neighbours":
        one, other = rows[0::2], rows[1::2]
    else:
        one, other = rows[:half], rows[half:]
    turned = (
        one * np.cos(angles) - other * np.sin(angles),
        one * np.sin(angles) + other * np.cos(angles),
    )
    return np.stack(turned, 1).reshape(-1) if pairs == "neighbours" else np.concatenate(turned)


def test_attention_is_the_same(checkpoints: dict[str, Path], write: Callable[..., Pair]) -> None:
    """Theirs with neighbouring pairs gives the scores of ours with halves; and turned it is not."""
    text, mmproj = write()
    theirs, file = decoded(text), open_model_file(text, mmproj)
    state = np.random.default_rng(0).standard_normal((2, 64))
    heads, kv, dim = (
        getattr(file.hparams.llm, name) for name in ("n_heads", "n_kv_heads", "head_dim")
    )

    def scores(read: Callable[[str], np.ndarray], pairs: str) -> list[float]:
        found = []
        for layer in range(file.hparams.llm.n_layers):
            q = read(f"blk.{layer}.attn_q.weight").astype(np.float64) @ state[0]
            k = read(f"blk.{layer}.attn_k.weight").astype(np.float64) @ state[1]
            for head in range(heads):
                other = head * kv // heads
                found.append(
                    rotated(q[head * dim :][:dim], 5, pairs)
                    @ rotated(k[other * dim :][:dim], 2, pairs)
                )
        return found

    expected = scores(theirs.__getitem__, "neighbours")
    np.testing.assert_allclose(scores(file.read, "halves"), expected, rtol=1e-12, atol=1e-12)
    assert np.abs(np.subtract(scores(theirs.__getitem__, "halves"), expected)).max() > 0.1
    key = "language_model.model.layers.1.self_attn.q_proj.weight"
    stored = read_safetensors(checkpoints["base"] / "model.safetensors")[key]
    np.testing.assert_array_equal(file.read("blk.1.attn_q.weight"), stored)
    assert (theirs["blk.1.attn_q.weight"] != stored).any()


def test_types_and_bytes_stay(write: Callable[..., Pair], tmp_path: Path) -> None:
    """Rows are put in order as they are, whatever their type; nothing is rounded again."""
    matrices: Types = lambda name: (  # noqa: E731
        GGML.Q8_0 if name.startswith(("blk.", "token")) and "norm" not in name else GGML.F32
    )
    text, mmproj = write(audio_types=llama_cpp_audio_type, text_types=matrices)
    result = convert_gguf(text, tmp_path / "m.gguf", mmproj=mmproj)
    types = {t.name: t.tensor_type for t in gguf.GGUFReader(result.path).tensors}
    assert types["blk.0.attn_q.weight"] is types["blk.0.ffn_up.weight"] is GGML.Q8_0
    assert types["enc.blk.0.attn_kv.weight"] is types["proj.linear.weight"] is GGML.F16
    assert types["enc.blk.0.conv_up.weight"] is types["proj.query"] is GGML.F32
    theirs, found = decoded(text) | decoded(mmproj), decoded(result.path)
    both = [theirs[f"a.blk.1.attn_{part}.weight"] for part in "kv"]
    np.testing.assert_array_equal(found["enc.blk.1.attn_kv.weight"], np.concatenate(both))
    rows = theirs["blk.2.attn_k.weight"].reshape(2, 8, 2, 64).swapaxes(1, 2).reshape(32, 64)
    np.testing.assert_array_equal(found["blk.2.attn_k.weight"], rows)
    for name in ("blk.1.attn_v.weight", "token_embd.weight", "output_norm.weight"):
        np.testing.assert_array_equal(found[name], theirs[name])
    file = open_model_file(text, mmproj)
    some = np.array([30, 1, 17])
    np.testing.assert_array_equal(file.read_rows("blk.2.attn_k.weight", some), rows[some])
    np.testing.assert_array_equal(
        file.read_bytes("enc.blk.1.attn_kv.weight", 100, 5000),
        file.raw("enc.blk.1.attn_kv.weight")[100:5100],
    )


@pytest.mark.filterwarnings("ignore:.*the text is cut after")
@pytest.mark.parametrize("layout", NAMES)
def test_a_pair_runs_as_the_file_made_of_it(
    layout: str, ours: dict[str, Path], write: Callable[..., Pair], tmp_path: Path
) -> None:
    """Bit for bit, read from two files or from one; and as the checkpoint's up to rounding."""
    matrices: Types = lambda name: (  # noqa: E731
        GGML.F16 if name.startswith("blk.") and "norm" not in name else GGML.F32
    )
    text, mmproj = write(layout, audio_types=llama_cpp_audio_type, text_types=matrices)
    made = convert_gguf(text, tmp_path / "m.gguf", mmproj=mmproj).path
    audio = synthetic_audio(24_000, seed=3)
    with load(text, mmproj=mmproj) as pair, load(made) as one, load(ours[layout]) as own:
        found = [list(_stages(model, audio)) for model in (pair, one, own)]
        for a, b in zip(found[0], found[1], strict=True):
            np.testing.assert_array_equal(a, b)
        for a, b in zip(found[0], found[2], strict=True):
            assert np.abs(a - b).max() < 0.02 * np.abs(b).max()
        options: dict[str, Any] = {"prompt": "write", "max_tokens": 8}
        said = [model.transcribe(audio, **options).text for model in (pair, one)]
        copied = pickle.loads(pickle.dumps(pair))
        with copied:
            said.append(copied.transcribe(audio, **options).text)
        assert said[0] and len(set(said)) == 1


def _stages(model: Model, audio: np.ndarray) -> Iterator[np.ndarray]:
    encoded = model.run_encoder(model.compute_mel(audio))
    yield encoded.captured
    rows = model.run_projector(encoded.captured)
    yield rows
    yield model.logits(model.prompt(rows, ("USER: ", "write it")), np.array([65, 66]))


def test_other_types_and_quantization(
    ours: dict[str, Path], write: Callable[..., Pair], tmp_path: Path
) -> None:
    result = convert_gguf((pair := write())[0], tmp_path / "m.gguf", mmproj=pair[1], outtype="f16")
    a = quantize(result.path, tmp_path / "a.gguf", "q8_0").path
    b = quantize(ours["base"], tmp_path / "b.gguf", "q8_0").path
    one, other = decoded(a), decoded(b)
    for name in ("blk.0.attn_q.weight", "blk.1.ffn_down.weight", "token_embd.weight"):
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"clip.projector_type": ("ultravox", Kind.STRING)}, r"mmproj\.gguf: clip\.projector_type"),
        ({"clip.audio.chunk_size": None}, r"mmproj\.gguf: has no clip\.audio\.chunk_size"),
        (
            {"clip.audio.attention.layer_norm_epsilon": (1e-6, Kind.FLOAT32)},
            r"layer_norm_epsilon is 9\.99\S+, expected 1e-05",
        ),
        ({"granite.attention.scale": None}, r"text\.gguf: has no granite\.attention\.scale"),
        ({"tokenizer.ggml.tokens": (["a"], Kind.STRING)}, r"text\.gguf: .* has no <\|audio\|>"),
        ({"tokenizer.ggml.model": ("llama", Kind.STRING)}, "'llama', expected 'gpt2'"),
        ({"clip.audio.block_count": (5, Kind.UINT32)}, r"missing: a\.blk\.4\.ffn_norm\.weight"),
        ({"clip.audio.feature_layer": ([3], Kind.INT32)}, None),
        ({"a.blk.0.attn_v.weight": None}, r"missing: a\.blk\.0\.attn_v\.weight"),
        ({"a.proj_query": None}, r"mmproj\.gguf: has no tensor a\.proj_query"),
        ({"a.blk.2.attn_k.weight": np.zeros((64, 32))}, r"attn_k\.weight \[32, 64\] instead of"),
        ({"token_embd.weight": None}, r"missing: token_embd\.weight"),
        ({"granite.block_count": (2, Kind.UINT32)}, r"not part of the format: blk\.2\."),
    ],
)
def test_pairs_that_do_not_fit(
    write: Callable[..., Pair], changed: dict[str, Any], says: str | None
) -> None:
    pair = write(changed=changed)
    if says is None:  # the base has no such key to change
        assert open_model_file(*pair).hparams.encoder.captured_layers == ()
        return
    with pytest.raises(ModelFileError, match=says):
        open_model_file(*pair)


def test_keys_and_values_of_two_types(write: Callable[..., Pair]) -> None:
    odd: Types = lambda name: GGML.F16 if ".attn_k." in name else GGML.F32  # noqa: E731
    with pytest.raises(ModelFileError, match=r"attn_k\.weight is F16 and .*attn_v\.weight F32"):
        open_model_file(*write(audio_types=odd))


def test_the_wrong_file_of_two(
    ours: dict[str, Path], write: Callable[..., Pair], tmp_path: Path
) -> None:
    text, mmproj = write()
    alone = tmp_path / "alone" / text.name
    alone.parent.mkdir()
    alone.symlink_to(text)
    with pytest.raises(UnsupportedModelError, match=r"language model alone.*mmproj-.*convert"):
        open_model_file(alone)
    with pytest.raises(UnsupportedModelError, match="is the smaller part of a model in two files"):
        open_model_file(mmproj, text)
    with pytest.raises(ModelFileError, match=r"mmproj\.gguf: holds 'clip', but .* a whole model"):
        open_model_file(ours["base"], mmproj)
    with pytest.raises(ModelFileError, match="both hold the tensor"):
        open_model_file(text, ours["base"])
    with pytest.raises(ModelFileError, match="no such file"):
        open_model_file(text, tmp_path / "none.gguf")
    for path in (text, mmproj):
        with pytest.raises(InputError, match="is the source itself"):
            convert_gguf(text, path, mmproj=mmproj, force=True)


def test_the_other_file_is_found_beside(
    ours: dict[str, Path], write: Callable[..., Pair], tmp_path: Path
) -> None:
    """What every command opens by the language model alone; of two that could be, none is taken."""
    text, mmproj = write()
    found = open_model_file(text).container.beside
    assert found is not None and found.path == mmproj
    assert_our_tensors(text, None, decoded(ours["base"]))
    assert open_model_file(ours["base"]).container.beside is None
    made = convert_gguf(text, tmp_path / "made.gguf").path
    small = [decoded(quantize(f, tmp_path / f"{f.stem}-q.gguf", "q8_0").path) for f in (text, made)]
    assert small[0].keys() == small[1].keys()
    for name, values in small[0].items():
        np.testing.assert_array_equal(values, small[1][name], err_msg=name)
    again = mmproj.with_name("mmproj-model-bf16.GGUF")
    again.symlink_to(mmproj)
    with pytest.raises(ModelFileError, match=r"2 files .*mmproj-model-bf16\.GGUF, mmproj\.gguf"):
        open_model_file(text)
    assert open_model_file(text, again).container.beside is not None


def test_parts_of_two_models(write: Callable[..., Pair]) -> None:
    text, mmproj = write(changed={"general.name": ("Granite Speech 4.1 2B", Kind.STRING)})
    other = mmproj.with_name("mmproj-granite-speech-4.1-2b-plus.gguf")
    mmproj.rename(other)
    with pytest.raises(ModelFileError, match=r"is of 4\.1-2b-plus by its name.*is of 4\.1-2b$"):
        open_model_file(text)


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_damaged_pairs_are_refused_or_converted(
    which: int, write: Callable[..., Pair], tmp_path: Path
) -> None:
    pair = write()
    sound, damaged = take_apart(pair[which]), tmp_path / "damaged.gguf"
    seen = set()
    for seed in range(30):
        damaged.unlink(missing_ok=True)
        damaged.write_bytes(mutate(sound, seed)[0])
        parts = (damaged, pair[1]) if which == 0 else (pair[0], damaged)
        try:
            convert_gguf(parts[0], tmp_path / "m.gguf", mmproj=parts[1], force=True)
            seen.add("converted")
        except GraniteError as error:
            check_message(error)
            seen.add("refused")
    assert seen == {"refused", "converted"}


@pytest.mark.slow
def test_the_command(ours: dict[str, Path], write: Callable[..., Pair], tmp_path: Path) -> None:
    text, mmproj = write()
    output = tmp_path / "text-granite_speech.gguf"
    done = run("convert", text, "--mmproj", mmproj)
    assert done.returncode == 0 and output.name in done.stderr, done.stderr
    assert_our_tensors(output, None, decoded(ours["base"]))
    shown = json.loads(run("inspect", text, "--mmproj", mmproj, "--json").stdout)
    assert shown["dialect"] == "granite"
    assert (
        shown["hparams"]["encoder"]
        == json.loads(run("inspect", output, "--json").stdout)["hparams"]["encoder"]
    )
    said = run(
        *("transcribe", "-m", text, "--mmproj", mmproj, DEMO_SAMPLES[0]),
        *("--prompt", "write", "--max-tokens", "4"),
    )
    assert said.returncode == 0 and said.stdout.strip(), said.stderr
    for command in (
        ("inspect", text),
        ("quantize", text, tmp_path / "small.gguf", "q8_0"),
        ("imatrix", text, DEMO_SAMPLES[0], "-o", tmp_path / "imatrix.gguf"),
        ("diff", text, text, DEMO_SAMPLES[0]),
        ("diff", output, text, DEMO_SAMPLES[0]),
        ("bench", text, DEMO_SAMPLES[0], "--no-floor", "-n", "1"),
    ):
        done = run(*command)
        assert done.returncode == 0, done.stderr
    alone = tmp_path / "alone" / text.name
    alone.parent.mkdir()
    alone.symlink_to(text)
    refused = run("convert", alone)
    assert refused.returncode == 2 and "--mmproj" in refused.stderr
    refused = run("convert", tmp_path, tmp_path / "x.gguf", "--mmproj", mmproj)
    assert refused.returncode == 2 and "is no GGUF file" in refused.stderr
