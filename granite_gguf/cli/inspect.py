"""``granite-gguf inspect``: what a GGUF file holds."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from granite_gguf.architectures import architecture_of, open_model_file
from granite_gguf.cli.console import print_result, stdout
from granite_gguf.cli.model_names import local_mmproj, local_model
from granite_gguf.cli.options import MODEL_HELP, AsJson, Mmproj
from granite_gguf.errors import printable
from granite_gguf.sizes import megabytes
from granite_gguf.storage.container import MetadataValue, ValueType
from granite_gguf.storage.model_file import ModelFile

_LONGEST = 100  # characters of a value shown
_SHOWN_KEYS = (
    *("general.", "tokenizer.", "{arch}.source", "{arch}.quantize"),
    *("stt.variant", "stt.capability."),
)


def inspect(
    file: Annotated[str, typer.Argument(help=MODEL_HELP)],
    mmproj: Mmproj = None,
    as_json: AsJson = False,
) -> None:
    """Show a file's metadata, hyper-parameters, and sizes by stage and type."""
    model = open_model_file(local_model(file), local_mmproj(mmproj))
    if as_json:
        print_result(json.dumps(_as_dict(model), ensure_ascii=False, indent=2))
        return
    stored = model.container
    size = megabytes(sum(each.data.nbytes for each in stored.files))
    stdout.print(
        f"{escape(printable(str(model.path)))}: GGUF version {stored.version}, "
        f"dialect {model.dialect} ({model.reader.prefix}*), {len(stored.tensors)} tensors, {size}\n"
    )
    stdout.print(_metadata_table(model))
    stdout.print(_hparams_table(model))
    stdout.print(_sizes_table(model))
    for sentence in architecture_of(model).assumed(model):
        stdout.print(f"\nThe file does not tell, and it is assumed: {escape(printable(sentence))}")


def _shown(value: MetadataValue) -> str:
    if value.type is ValueType.ARRAY:
        kind = value.element_type.name.lower() if value.element_type else "empty"
        return f"{len(value.value)} x {kind}"
    text = (
        json.dumps(value.value, ensure_ascii=False)
        if isinstance(value.value, str)
        else (f"{value.value:g}" if isinstance(value.value, float) else str(value.value))
    )
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(value.value)} characters)"


def _plain_table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, show_header=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _metadata_table(model: ModelFile[Any]) -> Table:
    table = _plain_table("Metadata", "key", "value")
    shown = tuple(map(model.format.key, _SHOWN_KEYS))
    for key, value in model.container.metadata.items():
        if key.startswith(shown):
            table.add_row(_text(key), _text(_shown(value)))
    return table


def _text(value: object) -> Text:
    return Text(printable(str(value)))


def _hparams_table(model: ModelFile[Any]) -> Table:
    table = _plain_table("\nHyper-parameters", "stage", "name", "value")
    for stage, fields in asdict(model.hparams).items():
        for name, value in fields.items():
            table.add_row(stage, name, _text(value))
    return table


def _sizes(model: ModelFile[Any]) -> dict[tuple[str, str], tuple[int, int, int]]:
    """Tensors, parameters and bytes by stage and type."""
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for spec in model.specs.values():
        info = model.info(spec.name)
        entry = sums[spec.stage.value, info.type.name]
        count = 1
        for n in info.shape:
            count *= n
        entry[0] += 1
        entry[1] += count
        entry[2] += info.byte_count
    return {key: (value[0], value[1], value[2]) for key, value in sums.items()}


def _sizes_table(model: ModelFile[Any]) -> Table:
    table = Table(title="\nSizes", title_justify="left", box=None, pad_edge=False)
    table.add_column("stage")
    table.add_column("type")
    for column in ("tensors", "parameters", "bytes"):
        table.add_column(column, justify="right")
    rows = _sizes(model)
    for (stage, kind), (tensors, parameters, size) in rows.items():
        table.add_row(stage, kind, f"{tensors}", f"{parameters:,}", megabytes(size))
    totals = [sum(row[i] for row in rows.values()) for i in range(3)]
    table.add_row("total", "", f"{totals[0]}", f"{totals[1]:,}", megabytes(totals[2]))
    return table


def _as_dict(model: ModelFile[Any]) -> dict[str, Any]:
    return {
        "file": str(model.path),
        "dialect": model.dialect,
        "metadata": {key: value.value for key, value in model.container.metadata.items()},
        "hparams": asdict(model.hparams),
        "assumed": list(architecture_of(model).assumed(model)),
        "sizes": [
            {"stage": stage, "type": kind, "tensors": t, "parameters": p, "bytes": b}
            for (stage, kind), (t, p, b) in _sizes(model).items()
        ],
        "tensors": [
            {"name": info.name, "shape": list(info.shape), "type": info.type.name}
            for info in model.container.tensors.values()
        ],
    }
