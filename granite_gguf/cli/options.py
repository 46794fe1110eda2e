"""The options that several commands share, each declared once.

A default stands where a command takes the option by itself: ``as_json: AsJson = False``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from granite_gguf import passes
from granite_gguf.demo import DEMO_MODELS
from granite_gguf.model import Model, load
from granite_gguf.placing import kernel_choice

INPUT, OUTPUT, COMPUTATION = "Input", "Output", "Computation"

MODEL_HELP = (
    "A GGUF file; or a model of the Hugging Face Hub, as REPO/ID, REPO/ID:TYPE or "
    "REPO/ID:FILE.gguf, with an optional @REVISION; or 'auto' for the recommended one; or "
    "'demo:base', a small one of this package."
)
MODEL_VARIABLE = "GRANITE_GGUF_MODEL"

Mmproj = Annotated[
    str | None,
    typer.Option(
        "--mmproj",
        metavar="FILE",
        help="The file with encoder and projector, where the model is the language model of a "
        "pair for llama.cpp; or REPO/ID:FILE.gguf. By default the mmproj-*.gguf beside it.",
        rich_help_panel=INPUT,
        show_default=False,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "-t",
        "--threads",
        min=1,
        metavar="N",
        help="CPU threads; by default one for each available core.",
        rich_help_panel=COMPUTATION,
        show_default=False,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "-d",
        "--device",
        metavar="NAME",
        help="'auto', 'cpu' or a device that `granite-gguf doctor` names.",
        envvar="GRANITE_GGUF_DEVICE",
        rich_help_panel=COMPUTATION,
    ),
]
Kernels = Annotated[
    str,
    typer.Option(
        "--kernels",
        metavar="NAME",
        help="'auto' for the best that the processor has, 'ggml' for ggml's alone, or one that "
        "`granite-gguf doctor` names.",
        envvar="GRANITE_GGUF_KERNELS",
        rich_help_panel=COMPUTATION,
    ),
]
Precision = Annotated[
    kernel_choice.Precision,
    typer.Option(
        help="'exact' multiplies with the file's own types, 'fast' may round further where the "
        "processor has a faster kernel, and takes the encoder's word where it is sure.",
        rich_help_panel=COMPUTATION,
    ),
]
Cache = Annotated[
    passes.Cache,
    typer.Option(
        help="What autoregressive models keep keys and values as: 'f16', or 'f32', which takes "
        "twice the memory.",
        rich_help_panel=COMPUTATION,
    ),
]
LowMemory = Annotated[
    bool,
    typer.Option(
        "--low-memory",
        help="Keep one stage's weights in memory at a time; a little slower.",
        rich_help_panel=COMPUTATION,
    ),
]
ChunkSeconds = Annotated[
    float | None,
    typer.Option(
        metavar="S",
        help="Cut audio longer than this at a pause; by default as long as the model was made "
        "for, 30 s where its file does not tell.",
        rich_help_panel=INPUT,
        show_default=False,
    ),
]
Vad = Annotated[
    passes.Vad,
    typer.Option(
        help="'energy' leaves out silence at the ends and in long pauses, 'silero' (extra `vad`) "
        "what is no speech there, 'off' nothing.",
        rich_help_panel=INPUT,
    ),
]
Channels = Annotated[
    passes.Channels,
    typer.Option(
        help="'mixed', or 'each' transcribed by itself, with its number in the output: for calls "
        "that have a side on each.",
        rich_help_panel=INPUT,
    ),
]
WordTimes = Annotated[
    bool,
    typer.Option(
        "--word-times",
        help="Add each word's times and probability, where the format has them.",
        rich_help_panel=OUTPUT,
    ),
]
ModelOrDemo = Annotated[
    str | None,
    typer.Option(
        "-m",
        "--model",
        help=f"{MODEL_HELP} By default this package's small demonstration model.",
        envvar=MODEL_VARIABLE,
        show_default=False,
    ),
]
DemoName = Enum("DemoName", {name: name for name in DEMO_MODELS}, type=str)  # type: ignore[misc]
Demo = Annotated[
    DemoName | None,
    typer.Option(
        "--demo",
        help="Take a small demonstration model of this package instead of -m: 'nar', as without "
        "any, or 'base', which takes wishes such as --no-punctuation and --task translate --to es.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="As one JSON object.", rich_help_panel=OUTPUT)]
Force = Annotated[
    bool, typer.Option("--force", help="Replace what is there.", rich_help_panel=OUTPUT)
]


@dataclass(frozen=True)
class Computing:
    """By what to compute."""

    threads: Threads = None
    device: Device = "auto"
    kernels: Kernels = kernel_choice.AUTO
    cache: Cache = passes.Cache.F16

    def load(self, path: str | Path, **more: Any) -> Model:
        """A model, see :func:`granite_gguf.load`."""
        return load(path, **asdict(self), **more)


@dataclass(frozen=True)
class Loading(Computing):
    """By what to compute, and how."""

    precision: Precision = kernel_choice.Precision.EXACT
    low_memory: LowMemory = False
