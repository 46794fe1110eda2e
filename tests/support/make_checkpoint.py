"""Write a random Granite Speech NAR checkpoint, for tests and benchmarks without the real weights.

python tests/support/make_checkpoint.py --layout nle --size tiny --seed 0 DIR
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a script: the packages are found from the repository's root
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.support.checkpoint.configs import write_configs
from tests.support.checkpoint.layouts import LAYOUTS, stored_tensors
from tests.support.checkpoint.safetensors_file import write_checkpoint
from tests.support.checkpoint.sizes import SIZES
from tests.support.checkpoint.tokenizer import write_special_tokens_map, write_tokenizer

__all__ = ["DTYPES", "LAYOUTS", "SIZES", "CheckpointError", "Written", "make_checkpoint"]

DTYPES = ("bf16", "f16", "f32")

# What an earlier run may have left; nothing else in a directory is ever removed.
_OWN_FILES = (
    "config.json",
    "merges.txt",
    "model.safetensors",
    "model-[0-9]*-of-[0-9]*.safetensors",
    "model.safetensors.index.json",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)


class CheckpointError(ValueError):
    """A request that cannot be carried out; the message says what to change."""


@dataclass(frozen=True)
class Written:
    """What was written."""

    directory: Path
    tensors: int
    data_bytes: int  # of the tensors, without the files' headers


def make_checkpoint(
    directory: str | Path,
    *,
    layout: str,
    size: str = "tiny",
    seed: int = 0,
    dtype: str = "bf16",
    shards: int = 1,
    identity_projector_norms: bool = False,
    force: bool = False,
) -> Written:
    """Write a checkpoint in `layout` to `directory`.

    The weights depend on `size` and `seed` only, rounded to `dtype`. The native layout has no
    projector norms: to get the same model in the others, ask for `identity_projector_norms`.
    `force` replaces a checkpoint that is already there.
    """
    _check_choice("layout", layout, LAYOUTS)
    _check_choice("size", size, SIZES)
    _check_choice("dtype", dtype, DTYPES)
    if seed < 0:
        raise CheckpointError(f"seed is {seed}: expected 0 or more")
    chosen, stored_dtype = SIZES[size], dtype.upper()
    tensors = list(
        stored_tensors(
            layout, chosen, seed, stored_dtype, identity_projector_norms=identity_projector_norms
        )
    )
    if not 1 <= shards <= len(tensors):
        raise CheckpointError(f"shards is {shards}: expected 1 to {len(tensors)}, one per tensor")

    target = Path(directory)
    _prepare(target, force=force)
    write_configs(target, layout, chosen, stored_dtype)
    write_tokenizer(target, chosen.vocabulary, slow_files=layout == "nle")
    if layout != "native":
        write_special_tokens_map(target)
    write_checkpoint(target, tensors, shards)
    return Written(target, len(tensors), sum(tensor.nbytes for tensor in tensors))


def _check_choice(field: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise CheckpointError(f"{field} is {value!r}: expected one of {', '.join(choices)}")


def _prepare(directory: Path, *, force: bool) -> None:
    if directory.exists() and not directory.is_dir():
        raise CheckpointError(f"{directory} is a file: give a directory")
    directory.mkdir(parents=True, exist_ok=True)
    if not any(directory.iterdir()):
        return
    if not force:
        raise CheckpointError(f"{directory} is not empty: choose another directory, or use --force")
    for pattern in _OWN_FILES:
        for path in directory.glob(pattern):
            path.unlink()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Write a random Granite Speech NAR checkpoint.")
    parser.add_argument("directory", type=Path, metavar="DIR", help="where to write it")
    parser.add_argument("--layout", choices=LAYOUTS, required=True, help="its on-disk form")
    parser.add_argument("--size", choices=SIZES, default="tiny", help="default: tiny")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="default: bf16")
    parser.add_argument("--shards", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument(
        "--identity-projector-norms",
        action="store_true",
        help="projector norms do nothing, as in the native layout, which stores none",
    )
    parser.add_argument("--force", action="store_true", help="replace the checkpoint in DIR")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        written = make_checkpoint(**vars(options))
    except (CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{written.directory}: {written.tensors} tensors, {written.data_bytes:,} bytes of data")
    return 0


if __name__ == "__main__":
    sys.exit(main())
