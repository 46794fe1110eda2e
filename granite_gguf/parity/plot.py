"""Draws how close every row of every stage is, with time running alike through all panels."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from granite_gguf.errors import MissingExtraError
from granite_gguf.files import replacing
from granite_gguf.parity.report import Results

_NOISE = 1e-12  # of a cosine: below it float64 itself ends the axis
_PANEL = 1.1  # inches


def load_matplotlib() -> Any:
    """Matplotlib's figure module, without a window system.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module("matplotlib.figure")
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{error.name} is not installed, and --plot needs it: pip install 'granite-gguf[plot]'"
        ) from error


def plot(results: Results, path: Path, *, force: bool = False) -> None:
    """Write a PNG of ``1 - cosine`` by row, one panel per stage, one line per model.

    Stages of time share an axis in seconds. The editor's rows are text and have one of their own.
    A dotted line is the threshold; a row without a cosine is a gap.

    Raises:
        OutputError: the file exists and ``force`` is not set, or cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    figure_module = load_matplotlib()
    first = next(iter(results.values()))
    names = [result.name for result in first if result.cosines is not None]
    height = _PANEL * max(1, len(names)) + 0.8
    figure = figure_module.Figure(figsize=(10, height), layout="constrained")
    panels = figure.subplots(max(1, len(names)), squeeze=False)[:, 0]
    shared: Any = None
    for panel, name in zip(panels, names, strict=False):
        for model, stages in results.items():
            for result in stages:
                if result.name != name or result.cosines is None:
                    continue
                step = result.seconds_per_row
                rows = np.arange(len(result.cosines)) * (1.0 if step is None else step)
                distance = np.maximum(1.0 - result.cosines, _NOISE)
                panel.step(rows, distance, where="post", linewidth=0.9, label=model)
                panel.axhline(max(1.0 - result.threshold, _NOISE), color="0.4", linestyle=":")
                panel.set_xlabel("row of text" if step is None else "seconds", fontsize="small")
                if step is not None:
                    shared = shared or panel
                    panel.sharex(shared) if panel is not shared else None
        panel.set_yscale("log")
        panel.set_title(name, loc="left", fontsize="small")
        panel.set_ylabel("1 - cos", fontsize="small")
    if names:
        panels[0].legend(fontsize="x-small", loc="upper right")
    with replacing(path, force=force) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
