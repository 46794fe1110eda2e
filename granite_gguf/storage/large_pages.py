"""Files in the system's large pages, from which memory is read a third faster than from small ones.

A step of decoding reads most of a model, and a core that reads from pages of 4 kB waits for their
addresses. Where the system's cache holds a file in stretches of a large page, Linux maps these as
such, in every process: it makes them of what is read where they are asked for, and of what is
written in whole ones. What the cache has already stays as it is.
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from typing import BinaryIO

LARGE_PAGE = 2 << 20
"""Bytes: of x86-64, and of arm64 with pages of 4 kB. Where others are, nothing is lost."""


def ask_for_large_pages(mapped: mmap.mmap) -> None:
    """What is read of a mapped file from now on is to come in large pages, where that can be."""
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel that was built without them
            mapped.madvise(mmap.MADV_HUGEPAGE)


class LargePageWriter:
    """Appends to a file in whole large pages, counted from its beginning.

    Args:
        file: opened for appending.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._page = memoryview(bytearray(LARGE_PAGE))
        self._begin = self._end = file.tell() % LARGE_PAGE  # of what waits in the page

    def write(self, content: memoryview) -> int:
        """Take bytes, of which some may wait until there are more.

        Returns:
            How many they are.
        """
        if not (count := content.nbytes):
            return 0
        content = content.cast("B")
        while len(content):
            taken = content[: LARGE_PAGE - self._end]
            self._page[self._end : self._end + len(taken)] = taken
            self._end += len(taken)
            content = content[len(taken) :]
            if self._end == LARGE_PAGE:
                self.flush()
                self._begin = self._end = 0
        return count

    def flush(self) -> None:
        """Write what waits."""
        self._file.write(self._page[self._begin : self._end])
        self._file.flush()
        self._begin = self._end
