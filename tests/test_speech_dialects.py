"""Files of the autoregressive model from elsewhere, written by gguf-py from their descriptions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from granite_gguf import ModelFileError, UnsupportedModelError, load
from granite_gguf.architectures import open_model_file
from granite_gguf.converters import convert, convert_gguf
from granite_gguf.quantize import Scope, quantize
from granite_gguf.speech.llama_cpp import LlamaCppPair
from granite_gguf.speech.spec import SPEECH
from granite_gguf.tokenizer import load_tokenizer
from tests.gguf_editing import rewrite
from tests.gguf_reading import decoded, fields
from tests.signals import synthetic_audio
from tests.support.checkpoint.speech import SPEECH_SIZES
from tests.support.dialect_file import GGML, Kind, write_dialect_file
from tests.support.make_speech_checkpoint import ADAPTER, make_speech_checkpoint
from tests.support.speech_files import (
    ARCHITECTURE,
    TRANSCRIBE_CPP_MIXTURES,
    crispasr_metadata,
    crispasr_tensors,
    crispasr_type,
    transcribe_cpp_metadata,
    transcribe_cpp_tensors,
)

LAYOUTS = ("base", "plus", "lora")
NAMES = {
    "base": "granite-speech-4.1-2b",
    "plus": "granite-speech-4.1-2b-plus",
    "lora": "granite-speech-3.3-2b",
}
STT = "stt.granite."


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By layout, without what files from elsewhere do not have: a draft head, an adapter."""
    root = tmp_path_factory.mktemp("speech")
    for layout in LAYOUTS:
        make_speech_checkpoint(root / NAMES[layout], layout=layout)
    adapter = root / NAMES["lora"] / ADAPTER
    data = adapter.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    adapter.write_bytes(data[:start] + bytes(len(data) - start))  # changes nothing
    return {layout: root / NAMES[layout] for layout in LAYOUTS}


@pytest.fixture(scope="module")
def ours(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What our converter makes of the same checkpoints, in float32."""
    root = tmp_path_factory.mktemp("ours")
    return {
        layout: convert(path, root / f"{layout}.gguf", outtype="f32", name=NAMES[layout]).path
        for layout, path in checkpoints.items()
    }


Written = Callable[..., Path]


@pytest.fixture
def crispasr(checkpoints: dict[str, Path], tmp_path: Path) -> Written:
    """Writes such a file; None leaves out a key. Models of 3.x end a text with token 0."""

    def write(
        layout: str,
        name: str | None = None,
        types: Callable[[str], gguf.GGMLQuantizationType] = crispasr_type,
        tensors: dict[str, Any] | None = None,
        **keys: tuple[Any, gguf.GGUFValueType] | None,
    ) -> Path:
        eos = 0 if layout == "lora" else None
        metadata = {**crispasr_metadata(checkpoints[layout], eos_token_id=eos), **keys}
        return write_dialect_file(
            tmp_path / f"{name or NAMES[layout]}-f16.gguf",
            {key: value for key, value in metadata.items() if value is not None},
            {**crispasr_tensors(checkpoints[layout]), **(tensors or {})},
            types,
            architecture=ARCHITECTURE,
        )

    return write


@pytest.fixture
def transcribe_cpp(checkpoints: dict[str, Path], tmp_path: Path) -> Written:
    """Writes such a file, with changed metadata and tensors; None leaves one out."""

    def write(
        layout: str = "base",
        metadata: dict[str, Any] | None = None,
        tensors: dict[str, Any] | None = None,
        mixture: str = "f32",
    ) -> Path:
        found = (
            transcribe_cpp_metadata(checkpoints[layout], NAMES[layout]),
            transcribe_cpp_tensors(checkpoints[layout]),
        )
        changed = [
            {k: v for k, v in {**old, **(new or {})}.items() if v is not None}
            for old, new in zip(found, (metadata, tensors), strict=True)
        ]
        types = TRANSCRIBE_CPP_MIXTURES[mixture]
        return write_dialect_file(
            tmp_path / "theirs.gguf", *changed, types, architecture=ARCHITECTURE
        )

    return write


def assert_same_tensors(
    path: Path, expected: dict[str, np.ndarray], half: Callable[[str], bool] = lambda _: False
) -> None:
    """All the same, up to unit dimensions, and the filterbank up to how it was computed."""
    file = open_model_file(path)
    assert file.specs.keys() == expected.keys()
    for name, values in expected.items():
        found = file.read(name)
        if name == "audio.mel_filters":
            np.testing.assert_allclose(found, values, atol=1e-5)
            continue
        wanted = values.astype(np.float16).astype(np.float32) if half(name) else values
        np.testing.assert_array_equal(found, wanted.reshape(found.shape), err_msg=name)


def is_half(name: str) -> bool:
    return crispasr_type(name) is GGML.F16


# CrispASR's


@pytest.mark.parametrize("layout", LAYOUTS)
def test_crispasr_files_are_read(layout: str, ours: dict[str, Path], crispasr: Written) -> None:
    """The same numbers and tensors; a head is there even where it is the embedding."""
    theirs = crispasr(layout)
    file, own = open_model_file(theirs), open_model_file(ours[layout])
    assert file.dialect == "granite_speech" and file.hparams.family == own.hparams.family
    assert file.hparams.encoder == own.hparams.encoder
    assert file.hparams.front_end == own.hparams.front_end
    assert not file.hparams.llm.tie_word_embeddings and file.hparams.llm.apply_logits_scaling
    assert file.hparams.adapter.rank == file.hparams.draft.bpe_vocab == 0
    variant = NAMES[layout].removeprefix("granite-speech-")
    assert file.hparams.prompt.variant == variant
    assert not file.hparams.prompt.default  # which goes by the variant
    # Only the name tells it, unless that is of a model of another form.
    named = {
        "base": {"x-4.0-1b-q4_k": "4.0-1b", "x-4.1-2b-plus": "", "x": ""},
        "plus": {"x-4.1-2b-plus": "4.1-2b-plus", "x-4.1-2b": ""},
        "lora": {"x-3.2-8b": "3.2-8b", "x-4.1-2b": ""},
    }[layout]
    for stem, told in named.items():
        other = theirs.with_name(f"{stem}.gguf")
        other.symlink_to(theirs)
        assert open_model_file(other).hparams.prompt.variant == told, stem
    expected = decoded(ours[layout])
    expected.setdefault("output.weight", expected["token_embd.weight"])
    assert_same_tensors(theirs, expected, is_half)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_crispasr_files_become_ours(
    layout: str, ours: dict[str, Path], crispasr: Written, tmp_path: Path
) -> None:
    theirs = crispasr(layout)
    result = convert_gguf(theirs, tmp_path / "m.gguf", revision="r1")
    file, own = open_model_file(result.path), open_model_file(ours[layout])
    expected, found = fields(ours[layout]), fields(result.path)
    assert file.hparams == result.hparams
    for stage in ("front_end", "encoder", "draft", "projector", "prompt"):
        assert getattr(file.hparams, stage) == getattr(own.hparams, stage)
    # A head that is a second copy of the embedding is left out, and the window that nobody uses.
    assert file.hparams.llm.tie_word_embeddings is (layout != "base")
    assert_same_tensors(result.path, decoded(ours[layout]), is_half)
    types = {t.name: t.tensor_type for t in gguf.GGUFReader(result.path).tensors}
    assert types == {name: crispasr_type(name) for name in file.specs}
    # What only the checkpoint knows is not made up.
    beside = {"tokenizer.huggingface.json", "tokenizer.chat_template", "tokenizer.ggml.token_type"}
    own_keys = {key for key in expected if key.startswith(("granite_speech.", "tokenizer."))}
    assert own_keys - found.keys() == beside
    # All checkpoints here split texts as the base does; such a file ends texts of 3.x with token 0
    # and does not tell of an adapter.
    other = {"base": (), "plus": (".pre",), "lora": (".pre", "token_id", ".lora.")}[layout]
    for key in own_keys - beside:
        assert any(part in key for part in other) or found[key] == expected[key], key
    assert found["granite_speech.variant"] == NAMES[layout].removeprefix("granite-speech-")
    assert found["granite_speech.source.file"] == theirs.name
    assert found["granite_speech.source.revision"] == "r1"
    assert (
        found["tokenizer.ggml.pre"] == {"base": "dbrx", "plus": "gpt-2", "lora": "refact"}[layout]
    )
    assert (
        result.layout.value
        == {"base": "granite_speech", "plus": "granite_speech_plus", "lora": "granite_speech_lora"}[
            layout
        ]
    )
    assert fields(result.path)["general.name"] == gguf.Metadata.id_to_title(theirs.stem)
    with pytest.raises(UnsupportedModelError, match="is a granite_speech file already"):
        convert_gguf(result.path, tmp_path / "again.gguf")


def test_a_variant_that_nothing_tells_is_not_made_up(crispasr: Written, tmp_path: Path) -> None:
    """4.0-1b and 4.1-2b differ in nothing but their names."""
    converted = convert_gguf(crispasr("base", "model"), tmp_path / "a.gguf")
    assert converted.hparams.prompt.variant == converted.hparams.prompt.default == ""
    named = convert_gguf(crispasr("base", "granite-4.0-1b-speech"), tmp_path / "b.gguf")
    assert named.hparams.prompt.variant == "4.0-1b"
    assert named.hparams.prompt.default == "can you transcribe the speech into a written format?"
    plus = convert_gguf(crispasr("plus", "granite-speech-4.1-2b"), tmp_path / "c.gguf")
    assert plus.hparams.prompt.variant == "4.1-2b-plus"
    other = convert_gguf(crispasr("lora", "granite-speech-4.1-2b"), tmp_path / "d.gguf")
    assert other.hparams.prompt.variant == ""


def test_a_head_that_differs_from_the_embedding_in_one_number(
    crispasr: Written, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    head = crispasr_tensors(checkpoints["plus"])["output.weight"].copy()
    head[-1, -1] += 1
    theirs = crispasr("plus", tensors={"output.weight": head})
    converted = convert_gguf(theirs, tmp_path / "m.gguf")
    assert not converted.hparams.llm.tie_word_embeddings
    np.testing.assert_array_equal(
        open_model_file(converted.path).read("output.weight"), head.astype(np.float16)
    )


def test_the_oldest_crispasr_files(
    ours: dict[str, Path], crispasr: Written, tmp_path: Path
) -> None:
    """Without ids, the projector's input and merges: models can be converted, not tokenised for."""
    keys = ("llm.eos_token_id", "llm.bos_token_id", "proj.encoder_hidden_size")
    old = crispasr("base", **dict.fromkeys(f"granite_speech.{key}" for key in keys))
    file = open_model_file(old)
    assert file.hparams.projector == open_model_file(ours["base"]).hparams.projector
    assert file.hparams.llm.eos_token_id == 0  # a vocabulary too small for Granite 4's ids
    without = crispasr("base", **{"tokenizer.ggml.merges": None})
    with pytest.raises(ModelFileError, match="has no tokenizer"):
        load_tokenizer(open_model_file(without))
    assert convert_gguf(without, tmp_path / "m.gguf").byte_count > 0


def test_crispasr_files_are_quantized_into_ours(crispasr: Written, tmp_path: Path) -> None:
    made = quantize(crispasr("base"), tmp_path / "q.gguf", "q8_0", scope=Scope.ALL)
    found = fields(made.path)
    assert found["granite_speech.source.layout"] == "granite_speech"
    assert found["granite_speech.enc.self_conditioning_layer"] == 2
    assert {"audio.mel_window"} & decoded(made.path).keys() == set()
    assert open_model_file(made.path).hparams == open_model_file(crispasr("base")).hparams


# The tokenizers of files without tokenizer.json


TEXTS = (
    "can you transcribe 2024 the speech?\n ASSISTANT: don't",
    " 3.3 and 1234567 Ünïcode  spaces\t\n\n end. ",
    "<|audio|>USER: <|audio|>x<|end_of_text|>\n",
)


@pytest.mark.parametrize("split", ["dbrx", "gpt-2", "refact"])
def test_texts_are_split_as_the_checkpoint_does(
    split: str, checkpoints: dict[str, Path], crispasr: Written, tmp_path: Path
) -> None:
    """Against tokenizer.json with each of the three ways, from two lists of strings."""
    directory = tmp_path / "checkpoint"
    shutil.copytree(checkpoints["base"], directory)
    path = directory / "tokenizer.json"
    content = json.loads(path.read_text())
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    digits = {"type": "Digits", "individual_digits": True}
    plain = {**byte_level, "use_regex": True}
    if split != "dbrx":
        parts = [digits, plain] if split == "refact" else [plain]
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": parts}
        path.write_text(json.dumps(content))
    expected = load_tokenizer(open_model_file(convert(directory, tmp_path / "ours.gguf").path))
    layout = {"dbrx": "base", "gpt-2": "plus", "refact": "lora"}[split]
    found = load_tokenizer(open_model_file(crispasr(layout)))
    # Few merges of this vocabulary reach across what the ways split differently.
    one, other = (made._tokenizer.pre_tokenizer for made in (expected, found))
    for text in TEXTS:
        assert one.pre_tokenize_str(text) == other.pre_tokenize_str(text)
    seen = [expected.encode(text).tolist() for text in TEXTS]
    assert [found.encode(text).tolist() for text in TEXTS] == seen
    assert SPEECH_SIZES["tiny"].audio_id in seen[2]
    assert [found.decode(ids) for ids in seen] == [expected.decode(ids) for ids in seen]


def test_a_way_to_split_that_is_unknown(crispasr: Written) -> None:
    path = crispasr("base", **{"tokenizer.ggml.pre": ("llama3", Kind.STRING)})
    with pytest.raises(ModelFileError, match=r"pre is 'llama3', expected one of dbrx, gpt-2"):
        load_tokenizer(open_model_file(path))


# transcribe.cpp's


@pytest.mark.parametrize("layout", ["base", "plus"])
def test_transcribe_cpp_files(
    layout: str, ours: dict[str, Path], transcribe_cpp: Written, tmp_path: Path
) -> None:
    """The same numbers and tensors as of the checkpoint, read directly and converted."""
    theirs = transcribe_cpp(layout)
    file, own = open_model_file(theirs), open_model_file(ours[layout])
    for stage in ("front_end", "encoder", "draft", "projector", "llm", "adapter"):
        assert getattr(file.hparams, stage) == getattr(own.hparams, stage), stage
    assert file.hparams.prompt.variant == own.hparams.prompt.variant
    assert_same_tensors(theirs, decoded(ours[layout]))
    texts = [load_tokenizer(f).encode(TEXTS[0]).tolist() for f in (file, own)]
    assert layout == "plus" or texts[0] == texts[1]  # the plus checkpoint here splits as the base

    result = convert_gguf(theirs, tmp_path / "m.gguf")
    assert open_model_file(result.path).hparams == own.hparams == result.hparams
    assert_same_tensors(result.path, decoded(ours[layout]))
    expected, found = fields(ours[layout]), fields(result.path)
    assert not any(key.startswith("stt.") for key in found)
    beside = {"tokenizer.huggingface.json", "tokenizer.ggml.token_type"}
    for key in expected.keys() - beside - {"granite_speech.source.file"}:
        if key.startswith(("granite_speech.", "tokenizer.")) and (
            layout == "base" or not key.endswith(".pre")
        ):
            assert found[key] == expected[key], key
    assert found["tokenizer.ggml.pre"] == {"base": "dbrx", "plus": "gpt-2"}[layout]
    assert found["granite_speech.source.architecture"] == "granite_speech"
    assert found["granite_speech.source.variant"] == NAMES[layout]


def test_files_from_elsewhere_run_as_our_own(
    ours: dict[str, Path], crispasr: Written, transcribe_cpp: Written
) -> None:
    """Bit for bit, with the same filterbank."""
    filters = decoded(ours["base"])["audio.mel_filters"]
    found = []
    for path in (
        ours["base"],
        crispasr("base", types=lambda _: GGML.F32, tensors={"audio.mel_filters": filters}),
        transcribe_cpp(tensors={"frontend.mel_filterbank": np.ascontiguousarray(filters.T)}),
    ):
        with load(path) as model:
            encoded = model.run_encoder(model.compute_mel(synthetic_audio(24_000, seed=3)))
            rows = model.run_projector(encoded.captured)
            logits = model.logits(model.prompt(rows, ("USER: ", "write it")), np.array([65, 66]))
            found.append((encoded.captured, rows, logits))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_both_dialects_are_told_apart_by_their_keys(
    crispasr: Written, transcribe_cpp: Written
) -> None:
    readers = {
        type(open_model_file(path).reader).__name__ for path in (crispasr("base"), transcribe_cpp())
    }
    assert readers == {"Own", "TranscribeCppSpeech"}


def test_rounded_queries_are_decoded(
    ours: dict[str, Path], transcribe_cpp: Written, tmp_path: Path
) -> None:
    """BF16 rounds nothing of a bfloat16 checkpoint but the convolutions, which are F16."""
    theirs = transcribe_cpp(mixture="bf16")
    file = open_model_file(theirs)
    assert file.info("proj.query").type is GGML.F32
    assert file.container.tensors["proj.query"].type is GGML.BF16
    assert_same_tensors(
        theirs,
        decoded(ours["base"]),
        lambda name: name.endswith(("conv_up.weight", "conv_dw.weight", "conv_down.weight")),
    )


@pytest.mark.parametrize(
    ("key", "value", "kind", "says"),
    [
        (STT + "projector.hidden_act", "relu", Kind.STRING, "'relu', expected 'gelu'"),
        (STT + "projector.cross_attn_frequency", 2, Kind.UINT32, "2, expected 1"),
        (STT + "decoder.hidden_act", "gelu", Kind.STRING, "'gelu', expected 'silu'"),
        ("stt.frontend.dither", 0.5, Kind.FLOAT32, "0.5, expected 0.0"),
        ("stt.frontend.center", False, Kind.BOOL, "False, expected True"),
        ("tokenizer.ggml.pre", "refact", Kind.STRING, "'refact', expected 'granite' or 'gpt2'"),
        (STT + "encoder.cat_hidden_layers", "3", Kind.STRING, "'3', expected an array of integers"),
    ],
)
def test_values_that_are_not_supported(
    transcribe_cpp: Written, key: str, value: Any, kind: Any, says: str
) -> None:
    with pytest.raises(ModelFileError, match=rf"theirs\.gguf: {key} is {says}"):
        open_model_file(transcribe_cpp(metadata={key: (value, kind)}))


def test_every_missing_key_is_named(transcribe_cpp: Written, checkpoints: dict[str, Path]) -> None:
    keys = {key for key in transcribe_cpp_metadata(checkpoints["base"], "") if STT in key}
    informative = {STT + f"projector.{key}" for key in ("max_pos_emb", "position_embedding_type")}
    assert len(keys - informative) == 38
    for key in keys - informative:
        with pytest.raises(ModelFileError, match=rf"has no {key}, which"):
            open_model_file(transcribe_cpp(metadata={key: None}))


@pytest.mark.parametrize(
    ("metadata", "tensors", "says"),
    [
        ({STT + "encoder.n_layers": (5, Kind.UINT32)}, {}, r"missing: enc\.blocks\.4\.norm_ff1"),
        ({}, {"dec.output.weight": None}, r"missing: dec\.output\.weight"),
        (
            {STT + "decoder.tie_word_embeddings": (True, Kind.BOOL)},
            {},
            r"not part of the format: dec\.output\.weight",
        ),
        (
            {STT + "encoder.cat_hidden_layers": ([3], Kind.INT32)},
            {},
            "projector reads 64 numbers a frame, the encoder gives 128",
        ),
        ({}, {"proj.query": np.zeros((1, 3, 65))}, r"proj\.query \[65, 3, 1\] instead"),
        (
            {},
            {"frontend.window": np.ones(400)},
            r"frontend\.window differs by up to 1 from the periodic Hann",
        ),
    ],
)
def test_files_that_contradict_themselves(
    transcribe_cpp: Written, metadata: dict[str, Any], tensors: dict[str, Any], says: str
) -> None:
    with pytest.raises(ModelFileError, match=says):
        open_model_file(transcribe_cpp(metadata=metadata, tensors=tensors))


@pytest.mark.parametrize(("captured", "parameters"), [((), 2_313_207_132), ((3,), 2_111_878_492)])
def test_the_released_models_have_as_many_tensors(
    ours: dict[str, Path], captured: tuple[int, ...], parameters: int
) -> None:
    """Of 4.1-2b and plus, as their publishers' files and checkpoints count them."""
    tiny = open_model_file(ours["base"]).hparams
    h = replace(
        tiny,
        encoder=replace(
            tiny.encoder, n_layers=16, d_model=1024, n_heads=8, head_dim=128, conv_dim=2048,
            ff_dim=4096, ctc_vocab=348, self_conditioning_layer=8, captured_layers=captured,
        ),
        projector=replace(
            tiny.projector, d_model=1024, n_heads=16, ff_dim=4096,
            encoder_hidden_size=1024 * (1 + len(captured)),
        ),
        llm=replace(
            tiny.llm, n_layers=40, d_model=2048, n_heads=16, n_kv_heads=4, head_dim=128,
            ff_dim=4096, vocab_size=100_353, eos_token_id=100_257, bos_token_id=100_257,
            pad_token_id=100_256, audio_token_index=100_352, tie_word_embeddings=bool(captured),
        ),
    )  # fmt: skip
    assert SPEECH.problem(h) is None
    specs = SPEECH.tensors(h)
    filters = specs.pop("audio.mel_filters")
    assert sum(prod(spec.shape) for spec in specs.values()) == parameters
    head, window = bool(captured), 1  # a second copy of the embedding, and what nothing reads
    assert 1 + len(specs) + head + window == 940
    pair = [spec.name for spec in LlamaCppPair().stored_specs(h, [filters, *specs.values()])]
    assert sum(name.startswith("a.") for name in pair) == 559
    assert len(set(pair)) == len(pair) == 559 + 363 - head


def test_another_architecture(crispasr: Written, tmp_path: Path) -> None:
    other = rewrite(crispasr("base"), tmp_path / "x.gguf", architecture="llama")
    with pytest.raises(UnsupportedModelError, match="holds 'llama', expected"):
        open_model_file(other)
