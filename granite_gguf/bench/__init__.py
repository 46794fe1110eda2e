"""Measures a model: seconds by stage, and how near they come to what the matrix products need."""

from granite_gguf.bench.floor import Floor, measure_floor
from granite_gguf.bench.measure import Measurement, StageSeconds, measure

__all__ = ["Floor", "Measurement", "StageSeconds", "measure", "measure_floor"]
