"""Connectionist temporal classification (Graves et al. 2006): labels of frames to what is said."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from granite_gguf.arrays import IntArray


def collapse(ids: npt.NDArray[np.integer], blank: int) -> IntArray:
    """CTC collapse: merge runs of equal ids, then drop blanks, so that A _ A stays A A."""
    changed = np.ones(len(ids), dtype=bool)
    changed[1:] = ids[1:] != ids[:-1]
    merged: IntArray = ids[changed].astype(np.int64)
    kept: IntArray = merged[merged != blank]
    return kept
