"""Write a random checkpoint of the autoregressive Granite Speech model.

python tests/support/make_speech_checkpoint.py --layout base --size tiny DIR

Layouts: ``base`` (4.0-1b, 4.1-2b), ``plus`` (4.1-2b-plus), ``lora`` (3.3: with an adapter beside),
``oldest`` (3.2: the same under the names of its own code).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a script: the packages are found from the repository's root
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.support.checkpoint.safetensors_file import write_checkpoint, write_file
from tests.support.checkpoint.speech import (
    SPEECH_LAYOUTS,
    SPEECH_SIZES,
    adapter_tensors,
    draft_head_tensors,
    speech_tensors,
    write_speech_configs,
)
from tests.support.checkpoint.tokenizer import write_tokenizer
from tests.support.make_checkpoint import DTYPES, CheckpointError, Written

AUDIO_TOKEN = "<|audio|>"
DRAFT_HEAD, ADAPTER = "out_llm.safetensors", "adapter_model.safetensors"


def make_speech_checkpoint(
    directory: str | Path,
    *,
    layout: str = "base",
    size: str = "tiny",
    seed: int = 0,
    dtype: str = "bf16",
    shards: int = 1,
    draft_head: bool = False,
) -> Written:
    """Write a checkpoint in `layout` to `directory`, which is empty or missing.

    The weights depend on `size` and `seed` only, rounded to `dtype`. `draft_head` adds the BPE
    head's file, as 4.1-2b has it.
    """
    for field, value, choices in (
        ("layout", layout, SPEECH_LAYOUTS),
        ("size", size, tuple(SPEECH_SIZES)),
        ("dtype", dtype, DTYPES),
    ):
        if value not in choices:
            raise CheckpointError(f"{field} is {value!r}: expected one of {', '.join(choices)}")
    target, chosen, stored = Path(directory), SPEECH_SIZES[size], dtype.upper()
    target.mkdir(parents=True, exist_ok=True)
    if any(target.iterdir()):
        raise CheckpointError(f"{target} is not empty: choose another directory")
    tensors = list(speech_tensors(layout, chosen, seed, stored))
    write_speech_configs(target, layout, chosen, stored)
    write_tokenizer(target, chosen.vocabulary, slow_files=False, last=AUDIO_TOKEN)
    write_checkpoint(target, tensors, shards)
    if draft_head:
        write_file(target / DRAFT_HEAD, draft_head_tensors(chosen, seed, stored))
    if layout in ("lora", "oldest"):
        write_file(target / ADAPTER, adapter_tensors(chosen, seed))
    return Written(target, len(tensors), sum(tensor.nbytes for tensor in tensors))


def main() -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description="Write a random Granite Speech checkpoint.")
    parser.add_argument("directory", type=Path, metavar="DIR", help="where to write it")
    parser.add_argument("--layout", choices=SPEECH_LAYOUTS, default="base")
    parser.add_argument("--size", choices=SPEECH_SIZES, default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--shards", type=int, default=1, metavar="N")
    parser.add_argument("--draft-head", action="store_true", help=f"also write {DRAFT_HEAD}")
    try:
        written = make_speech_checkpoint(**vars(parser.parse_args()))
    except (CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{written.directory}: {written.tensors} tensors, {written.data_bytes:,} bytes of data")
    return 0


if __name__ == "__main__":
    sys.exit(main())
