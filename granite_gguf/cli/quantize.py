"""``granite-gguf quantize``: a smaller file."""

from __future__ import annotations

import time
from collections import defaultdict
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from granite_gguf.architectures import open_model_file
from granite_gguf.cli.console import print_note, stdout, writing_progress
from granite_gguf.cli.model_names import local_model
from granite_gguf.cli.options import Force, Threads
from granite_gguf.errors import InputError
from granite_gguf.quantize import (
    QUANT_TYPES,
    Plan,
    Scope,
    default_output,
    make_plan,
    parse_override,
    quant_type,
)
from granite_gguf.quantize import quantize as quantize_file
from granite_gguf.sizes import megabytes


class Preset(str, Enum):
    """Files that users have elsewhere."""

    FIVE_BIT = "five-bit"
    INT8 = "int8"
    HALF = "half"


_PRESETS = {
    Preset.FIVE_BIT: ("q5_k", Scope.ENC_BF16),  # the editor in five bits, the rest in bfloat16
    Preset.INT8: ("q8_0", Scope.ALL),
    Preset.HALF: ("f16", Scope.ALL),
}

_TYPES_PANEL = "What becomes of encoder and projector"


def quantize(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE.gguf",
            help="The file to quantize, best F32, F16 or BF16; or a model's name, as -m takes it.",
        ),
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[OUTPUT.gguf] [TYPE]",
            help="The file to write, by default beside the source and named after the type (of a "
            "model's name in the current folder); and "
            f"the type, by default q4_k: {', '.join(QUANT_TYPES)}.",
        ),
    ] = None,
    enc_f16: Annotated[
        bool, typer.Option("--enc-f16", help="Their matrices to F16.", rich_help_panel=_TYPES_PANEL)
    ] = False,
    enc_bf16: Annotated[
        bool,
        typer.Option("--enc-bf16", help="Their matrices to BF16.", rich_help_panel=_TYPES_PANEL),
    ] = False,
    enc_q8: Annotated[
        bool, typer.Option("--enc-q8", help="Their matrices to Q8_0.", rich_help_panel=_TYPES_PANEL)
    ] = False,
    quant_all: Annotated[
        bool,
        typer.Option(
            "--quant-all",
            help="Their matrices to TYPE too; three small sensitive ones to F16.",
            rich_help_panel=_TYPES_PANEL,
        ),
    ] = False,
    preset: Annotated[
        Preset | None,
        typer.Option(
            help="five-bit: q5_k --enc-bf16. int8: q8_0 --quant-all. half: f16 --quant-all."
        ),
    ] = None,
    tensor_type: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REGEX=TYPE",
            help="A type for the tensors whose names match; the first that matches decides.",
        ),
    ] = None,
    imatrix: Annotated[
        Path | None, typer.Option(help="An importance matrix, as `granite-gguf imatrix` makes it.")
    ] = None,
    allow_requantize: Annotated[
        bool, typer.Option("--allow-requantize", help="Accept a source that is quantized already.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show types and sizes; read no weights.")
    ] = False,
    threads: Threads = None,
    force: Force = False,
) -> None:
    """Quantize a model.

    By default the language model's matrices become Q4_K, while encoder and
    projector stay as they are.
    """
    output, name = _output_and_type(arguments or [])
    scope = _scope(
        {
            Scope.ENC_F16: enc_f16,
            Scope.ENC_BF16: enc_bf16,
            Scope.ENC_Q8: enc_q8,
            Scope.ALL: quant_all,
        }
    )
    if preset is not None:
        if name is not None or scope is not Scope.EDITOR:
            raise InputError("--preset decides the type and the scope; leave the others out")
        name, scope = _PRESETS[preset]
    name = name or "q4_k"
    overrides = [parse_override(text) for text in tensor_type or []]
    path = local_model(source)
    if dry_run:
        file = open_model_file(path)
        plan = make_plan(file, name, scope, overrides, allow_requantize=allow_requantize)
        _show(plan)
        return
    if output is None and path != Path(source):
        output = Path(default_output(path, quant_type(name), scope).name)
    started = time.monotonic()
    with writing_progress(f"quantizing to {quant_type(name).label}") as progress:
        result = quantize_file(
            path,
            output,
            name,
            scope=scope,
            overrides=overrides,
            imatrix=imatrix,
            allow_requantize=allow_requantize,
            threads=threads,
            force=force,
            progress=progress,
        )
    _report_fallbacks(result.plan)
    print_note(
        f"{result.path}: {megabytes(result.byte_count)}, {result.plan.policy}, "
        f"{time.monotonic() - started:.1f} s"
    )


def _output_and_type(arguments: list[str]) -> tuple[Path | None, str | None]:
    """The optional output and type, which the ending of a name tells apart."""
    outputs = [text for text in arguments if text.lower().endswith(".gguf")]
    types = [text for text in arguments if not text.lower().endswith(".gguf")]
    if len(outputs) > 1 or len(types) > 1 or arguments != outputs + types:
        raise InputError(
            f"cannot read {' '.join(arguments)!r}: expected an output that ends in .gguf, then "
            f"one type of {', '.join(QUANT_TYPES)}"
        )
    if types:
        quant_type(types[0])
    return (Path(outputs[0]) if outputs else None), (types[0] if types else None)


def _scope(wanted: dict[Scope, bool]) -> Scope:
    chosen = [scope for scope, flag in wanted.items() if flag]
    if len(chosen) > 1:
        names = " and ".join(f"--{scope.value}" for scope in chosen)
        raise InputError(f"{names} exclude one another")
    return chosen[0] if chosen else Scope.EDITOR


def _report_fallbacks(plan: Plan) -> None:
    for tensor in plan.tensors:
        if tensor.fell_back:
            print_note(
                f"{tensor.spec.name}: rows of {tensor.shape[0]} do not divide into "
                f"{tensor.choice.wanted.name} blocks, stored as {tensor.choice.type.name}"
            )


def _show(plan: Plan) -> None:
    groups: dict[tuple[str, str, str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for tensor in plan.tensors:
        key = (
            tensor.spec.stage.value,
            tensor.spec.role.value,
            tensor.info.type.name,
            tensor.choice.type.name,
        )
        groups[key][0] += 1
        groups[key][1] += tensor.info.byte_count
        groups[key][2] += tensor.byte_count
    table = Table(box=None, pad_edge=False)
    for column in ("stage", "tensors", "from", "to"):
        table.add_column(column)
    for column in ("count", "before", "after"):
        table.add_column(column, justify="right")
    for names, (count, before, after) in groups.items():
        table.add_row(*names, str(count), megabytes(before), megabytes(after))
    total = sum(tensor.info.byte_count for tensor in plan.tensors)
    table.add_row(
        "total", "", "", "", str(len(plan.tensors)), megabytes(total), megabytes(plan.byte_count)
    )
    stdout.print(table)
    _report_fallbacks(plan)
