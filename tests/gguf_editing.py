"""Rewrites GGUF files with gguf-py, to make the forms that other tools publish."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Retype = Callable[[str, Array], gguf.GGMLQuantizationType | None]


def rewrite(
    source: Path,
    target: Path,
    *,
    drop: Iterable[str] = (),
    keep: Callable[[str], bool] = lambda _key: True,
    replace: dict[str, tuple[Any, gguf.GGUFValueType]] | None = None,
    rename: Callable[[str], str | None] = lambda name: name,
    edit: Callable[[str, Array], Array] = lambda _name, array: array,
    retype: Retype = lambda _name, _array: None,
    architecture: str | None = None,
) -> Path:
    """Copy a file of float tensors, changing metadata, names, values or types on the way."""
    reader = gguf.GGUFReader(source)
    changed = dict(replace or {})
    name = str(reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(target, architecture or name)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        if key in drop or key in changed or not keep(key):
            continue
        kind = field.types[0]
        element = field.types[-1] if kind is gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), kind, element)
    for key, (value, kind) in changed.items():
        writer.add_key_value(key, value, kind)
    for tensor in reader.tensors:
        new_name = rename(tensor.name)
        if new_name is None:
            continue
        shape = tuple(int(n) for n in reversed(tensor.shape))
        array = edit(tensor.name, np.array(tensor.data).reshape(shape))
        kind = retype(tensor.name, array)
        if kind is None:
            writer.add_tensor(new_name, array)
        else:
            quantized = gguf.quants.quantize(array.astype(np.float32), kind)
            writer.add_tensor(new_name, quantized, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
