"""Files that are written and read in the system's large pages."""

from __future__ import annotations

import mmap
import re
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from granite_gguf.ggml import F32
from granite_gguf.storage import container
from granite_gguf.storage.large_pages import LARGE_PAGE, LargePageWriter
from granite_gguf.storage.writer import TensorSource, write_gguf


class Recorder:
    """A file that remembers where each write began and ended."""

    def __init__(self, at: int) -> None:
        self.content, self.writes, self._at = bytearray(at), [(0, at)], at

    def tell(self) -> int:
        return self._at

    def write(self, content: memoryview) -> None:
        self.content += content
        self.writes.append((self._at, self._at + len(content)))
        self._at += len(content)

    def flush(self) -> None:
        pass


def _written(path: Path) -> Path:
    architecture = container.MetadataValue.of("any")
    numbers = TensorSource("numbers", (4,), F32, lambda: [np.arange(4, dtype=np.float32)])
    write_gguf(path, {"general.architecture": architecture}, [numbers])
    return path


@pytest.mark.parametrize("at", [0, 3, LARGE_PAGE, LARGE_PAGE + 7])
def test_all_is_written_in_order_and_no_write_crosses_a_page(at: int) -> None:
    random = np.random.default_rng(at)
    file = Recorder(at)
    writer = LargePageWriter(file)  # type: ignore[arg-type]
    parts = [
        random.integers(0, 256, size, dtype=np.uint8)
        for size in (1, 0, LARGE_PAGE - 5, 5, 3 * LARGE_PAGE + 11, 2, LARGE_PAGE)
    ]
    for part in parts:
        assert writer.write(part.data) == len(part)
    assert len(file.content) > LARGE_PAGE, "whole pages do not wait"
    writer.flush()
    assert bytes(file.content[at:]) == b"".join(part.tobytes() for part in parts)
    for start, end in file.writes[1:]:
        assert start // LARGE_PAGE == (end - 1) // LARGE_PAGE
    assert all(end % LARGE_PAGE == 0 for _, end in file.writes[1:-1])


def test_numbers_of_several_bytes_are_counted_in_bytes() -> None:
    file = Recorder(0)
    writer = LargePageWriter(file)  # type: ignore[arg-type]
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert writer.write(rows.data) == 48
    assert writer.write(np.zeros((0, 4), np.float32).data) == 0
    writer.flush()
    assert bytes(file.content) == rows.tobytes()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what was asked for")
@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="a kernel without large pages"
)
def test_a_mapped_file_asks_for_large_pages(tmp_path: Path) -> None:
    path = _written(tmp_path / "model.gguf")
    opened = container.open_container(path)
    maps = Path("/proc/self/smaps").read_text()
    flags = re.search(r"VmFlags:(.*)", maps[maps.index(str(path)) :])
    assert flags and "hg" in flags[1].split()
    assert opened.path == path


def test_a_kernel_without_large_pages_maps_a_file_all_the_same(tmp_path: Path) -> None:
    path = _written(tmp_path / "model.gguf")
    with patch.object(mmap, "MADV_HUGEPAGE", 12345, create=True):
        assert container.open_container(path).path == path
