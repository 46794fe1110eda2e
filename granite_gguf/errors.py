"""The errors this package raises for things a user can mend.

    GraniteError
    ├── AudioError              an audio file or array that cannot be transcribed
    │   └── TooLongError            one that is longer than was allowed
    ├── ModelFileError          a GGUF file that cannot be read or run
    │   └── UnsupportedModelError   a valid GGUF file of another architecture
    ├── CheckpointError         a Hugging Face checkpoint that cannot be converted
    ├── HubError                a model that cannot be fetched from the Hugging Face Hub
    ├── OutputError             an output file that cannot be written
    ├── DeviceError             a device that is absent, or a computation that failed on it
    │   └── OutOfMemoryError        a model or a recording too large for the memory there is
    ├── ComparisonError         outputs that cannot be compared: other audio, other dimensions
    ├── MissingExtraError       an optional dependency that is not installed
    ├── BusyError               a model that has as many recordings at work as it takes
    ├── CancelledError          a recording that is wanted no more
    │   └── DeadlineError           one that was not done in the time it was given
    └── InputError              an argument of the Python API with a wrong shape, dtype or value
        └── InputTypeError          an argument of another kind than those that are taken

Each message names the file or argument, says what was found and what was expected, and, where
there is one, the remedy. The command line prints the message without a traceback.
"""

from collections.abc import Iterator
from contextlib import contextmanager

_SHOWN = 80  # characters of a value that a message repeats


def printable(text: str) -> str:
    """A text on one line, with all that a terminal might obey written as escapes.

    >>> print(printable("take\\n1 \\x1b[31m.wav"))
    take\\n1 \\x1b[31m.wav
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class AudioWarning(UserWarning):
    """What a person should know of a recording that is transcribed all the same."""


def brief(value: object) -> str:
    """``repr`` of a value from a file, for a message: printable, and never long."""
    text = repr(value[:_SHOWN] if isinstance(value, str | bytes | list) else value)
    whole = not isinstance(value, str | bytes | list) or len(value) <= _SHOWN
    return text if whole and len(text) <= 2 * _SHOWN else f"{text[:_SHOWN]}..."


class GraniteError(Exception):
    """Base of every error raised on purpose by granite-gguf.

    Control characters, which a damaged file's names can carry to a terminal, are escaped.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


class AudioError(GraniteError):
    """An audio file or array that cannot be transcribed."""


class TooLongError(AudioError):
    """A recording that is longer than the caller allowed."""


class ModelFileError(GraniteError):
    """A GGUF file that cannot be read or run: damaged, truncated, incomplete or inconsistent."""


class UnsupportedModelError(ModelFileError):
    """A readable GGUF file whose architecture is another one."""


class CheckpointError(GraniteError):
    """A Hugging Face checkpoint that is incomplete, inconsistent or of an unknown layout."""


class HubError(GraniteError):
    """A model that cannot be fetched from the Hugging Face Hub, or a name that is none there."""


class OutputError(GraniteError):
    """An output file that exists already or cannot be written."""


class DeviceError(GraniteError):
    """A compute device that is not there, or on which a computation failed."""


class OutOfMemoryError(DeviceError, MemoryError):
    """A model or a recording that needs more memory than there is."""


class ComparisonError(GraniteError):
    """Outputs that cannot be compared: of other audio, of other dimensions, or incomplete."""


class MissingExtraError(GraniteError):
    """An optional dependency that is not installed; the message names the extra."""


class BusyError(GraniteError):
    """A model that has as many recordings at work as it takes."""


class CancelledError(GraniteError):
    """A recording that is wanted no more."""


class DeadlineError(CancelledError):
    """A recording that was not done in the time it was given."""


class InputError(GraniteError, ValueError):
    """An argument with a wrong shape, dtype or value."""


@contextmanager
def library_errors(kind: type[GraniteError], problem: str) -> Iterator[None]:
    """Turn what a library written in Rust raises inside the block into an error of a kind.

    The tokenizers library raises bare exceptions, and a panic of its code is no ``Exception``.
    """
    try:
        yield
    except (GraniteError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise kind(f"{problem}: {brief(str(error))}") from error


class InputTypeError(InputError, TypeError):
    """An argument of another kind than those that are taken; the message names these."""
