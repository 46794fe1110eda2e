"""Stage by stage, how far a model is from a reference: a file of recorded outputs, or a model.

    record() | read_reference() → Recorded ─┐
    model, samples ─────────────────────────┴→ diff_model() → StageResult per stage → report, plot

Every stage runs from the reference's own inputs, so a fault shows at the stage that has it and
not in those behind it.
"""

from granite_gguf.parity.comparison import Comparison, compare, row_cosines
from granite_gguf.parity.diff import StageResult, diff_model, record
from granite_gguf.recorded.file import read_reference, write_reference
from granite_gguf.recorded.outputs import Recorded

__all__ = [
    "Comparison",
    "Recorded",
    "StageResult",
    "compare",
    "diff_model",
    "read_reference",
    "record",
    "row_cosines",
    "write_reference",
]
