"""The container reader: what gguf-py writes, and what a stranger may send."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from granite_gguf import GraniteError, ModelFileError
from granite_gguf.architectures import open_model_file
from granite_gguf.storage.container import open_container, to_float32


@pytest.fixture
def small_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "test")
    writer.add_uint8("a.u8", 200)
    writer.add_int16("a.i16", -300)
    writer.add_uint64("a.u64", 2**40)
    writer.add_float32("a.f32", 0.5)
    writer.add_float64("a.f64", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_string("a.string", "größer")
    writer.add_array("a.strings", ["x", "", "é"])
    writer.add_array("a.ints", [1, -2, 3])
    writer.add_tensor("matrix", np.arange(12, dtype=np.float32).reshape(3, 4))
    writer.add_tensor("half", np.arange(5, dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_reads_what_gguf_py_writes(small_file: Path) -> None:
    container = open_container(small_file)
    values = {key: value.value for key, value in container.metadata.items()}
    assert values == {
        "general.architecture": "test",
        "a.u8": 200,
        "a.i16": -300,
        "a.u64": 2**40,
        "a.f32": 0.5,
        "a.f64": 0.1,
        "a.bool": True,
        "a.string": "größer",
        "a.strings": ["x", "", "é"],
        "a.ints": [1, -2, 3],
    }
    matrix = container.tensors["matrix"]
    assert matrix.shape == (4, 3)
    decoded = to_float32(container.raw("matrix"), matrix.type, matrix.shape)
    np.testing.assert_array_equal(decoded, np.arange(12).reshape(3, 4))
    half = container.tensors["half"]
    np.testing.assert_array_equal(
        to_float32(container.raw("half"), half.type, half.shape), np.arange(5)
    )


def test_agrees_with_gguf_py_on_a_model(f32_files: dict[str, Path]) -> None:
    ours, theirs = open_container(f32_files["nle"]), gguf.GGUFReader(f32_files["nle"])
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        info = ours.tensors[tensor.name]
        assert list(info.shape) == tensor.shape.tolist()
        assert info.offset == tensor.data_offset and info.byte_count == tensor.n_bytes
    for key, field in theirs.fields.items():
        if not key.startswith("GGUF."):
            assert ours.metadata[key].value == field.contents()


@pytest.mark.parametrize("content", [b"", b"GG", b"GGUF", b"RIFF" + bytes(100), bytes(64)])
def test_what_is_no_gguf_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"bad\.gguf"):
        open_container(path)


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no such file"):
        open_container(tmp_path / "missing.gguf")
    with pytest.raises(ModelFileError, match="directory"):
        open_container(tmp_path)


@pytest.mark.parametrize(
    ("offset", "value", "says"),
    [
        (4, struct.pack("<I", 1), "version 1"),
        (4, struct.pack(">I", 3), "big-endian"),
        (8, struct.pack("<Q", 2**63), "claims"),
        (16, struct.pack("<Q", 2**40), "claims"),
        (24, struct.pack("<Q", 2**62), "ends inside"),
    ],
)
def test_false_headers(small_file: Path, offset: int, value: bytes, says: str) -> None:
    data = bytearray(small_file.read_bytes())
    data[offset : offset + len(value)] = value
    small_file.write_bytes(data)
    with pytest.raises(ModelFileError, match=says):
        open_container(small_file)


def test_every_truncation_is_refused(small_file: Path) -> None:
    data = small_file.read_bytes()
    # The last tensor is followed by padding, which may be missing.
    for length in range(len(data) - 32):
        small_file.write_bytes(data[:length])
        with pytest.raises(ModelFileError):
            open_container(small_file)


@pytest.mark.slow
@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(position=st.integers(0, 6000), value=st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(
    f32_files: dict[str, Path], tmp_path: Path, position: int, value: int
) -> None:
    """Opening a damaged file gives a file or a clear error, and never anything else."""
    data = bytearray(f32_files["nle"].read_bytes()[:80_000])
    head = bytearray(f32_files["nle"].read_bytes())
    head[position] = value
    path = tmp_path / "mutated.gguf"
    path.write_bytes(head if position % 2 else data)
    try:
        open_model_file(path)
    except GraniteError as error:
        assert "mutated.gguf" in str(error)
