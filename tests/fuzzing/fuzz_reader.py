"""Coverage-guided fuzzing of the reader, with atheris, which the extra `fuzz` installs.

    python tests/fuzzing/fuzz_reader.py [-max_total_time=600] [libFuzzer's other options] [CORPUS]

An input is the beginning of a GGUF file, up to its tensors' contents; behind it come zeros, so that
tensors can lie within the file. It is opened as a model with its tokenizer, as a reference and as
an importance matrix. The corpus begins with a sound header of each. Any exception but the package's
own ends the run, and libFuzzer keeps the input.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import atheris

with atheris.instrument_imports(include=["granite_gguf"]):
    from granite_gguf.architectures import open_model_file
    from granite_gguf.errors import GraniteError
    from granite_gguf.quantize import read_importance
    from granite_gguf.recorded.file import read_reference
    from granite_gguf.storage.container import open_container
    from granite_gguf.tokenizer import load_tokenizer

from tests.fuzzing.fuzz_targets import TARGETS, check_message, sound_model

ZEROS = 1 << 22  # bytes of the file behind the input
LONGEST = 1 << 16


def header(path: Path) -> bytes:
    """A file up to its first tensor's contents."""
    container = open_container(path)
    return path.read_bytes()[: min(info.offset for info in container.tensors.values())]


def readers() -> list[Callable[[Path], Any]]:
    """Everything that opens a GGUF file."""
    return [lambda path: load_tokenizer(open_model_file(path)), read_reference, read_importance]


def fuzz(folder: Path) -> None:
    """Fuzz until libFuzzer ends the process."""
    model = sound_model(folder, "nle")
    corpus = folder / "corpus"
    corpus.mkdir()
    for name, target in TARGETS.items():
        (corpus / name).write_bytes(header(target.sound(model)))
    damaged, opened = folder / "damaged.gguf", readers()

    def attempt(data: bytes) -> None:
        damaged.unlink(missing_ok=True)  # an earlier map stays whole
        damaged.write_bytes(data)
        os.truncate(damaged, len(data) + ZEROS)
        for read in opened:
            try:
                read(damaged)
            except GraniteError as error:
                check_message(error)

    defaults = [f"-max_len={LONGEST}", "-timeout=5", "-rss_limit_mb=3000"]
    atheris.Setup([sys.argv[0], *defaults, *sys.argv[1:], str(corpus)], attempt)
    atheris.Fuzz()


def main() -> int:
    """Fuzz in a child, which cannot clean up behind itself."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        child = os.fork()
        if child == 0:
            fuzz(Path(folder))
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main())
