"""Reads typed values of a file by name, with errors that say which file and which name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

from granite_gguf.errors import CheckpointError, GraniteError, ModelFileError, brief
from granite_gguf.spec.parameters import parameters

T = TypeVar("T")
REQUIRED: Final[Any] = object()
MAX_FLOAT = 3.4e38  # what float32 can hold


@dataclass(frozen=True)
class Fields:
    """Values by name. None counts as no value.

    Attributes:
        path: of the file, for errors.
        values: by name.
        prefix: of every name that is asked for.
    """

    path: Path
    values: Mapping[str, Any]
    prefix: str = ""

    error: ClassVar[type[GraniteError]]
    kinds: ClassVar[Mapping[type, str]]
    """What the types are called where a value is of another."""

    def get(self, kind: type[T], name: str, default: T = REQUIRED) -> T:
        """The value of a name.

        Args:
            kind: ``int`` (not negative), ``float`` (finite), ``bool``, ``str``, ``dict`` or
                ``tuple`` (of integers).
            name: behind the prefix.
            default: the value where there is none; without it that is an error.

        Raises:
            GraniteError: the value is missing or of another type.
        """
        value = self.find(name)
        if value is None:
            if default is REQUIRED:
                raise self.missing(name, kind)
            return default
        if not self.fits(kind, value):
            raise self.wrong(name, self.kinds[kind])
        convert: Any = kind
        return convert(value)  # type: ignore[no-any-return]

    def require(self, name: str, expected: Any, *, optional: bool = True) -> None:
        """Refuse a file whose value is not the only one that is supported.

        Raises:
            GraniteError: it is another, or it is missing and not ``optional``.
        """
        if name not in self:
            if optional:
                return
            raise self.missing(name, type(expected))
        value = self.find(name)
        # 1 is not True: both the type and the value have to be the expected ones.
        if type(value) is not type(expected) or value != expected:
            raise self.wrong(name, f"{expected!r}: nothing else is supported")

    def missing(self, name: str, kind: type) -> GraniteError:
        """What to raise where there is no value."""
        return self.error(f"{self.path}: has no {self.prefix}{name}, expected {self.kinds[kind]}")

    def wrong(self, name: str, expected: str) -> GraniteError:
        """What to raise where the value is not what was expected."""
        found = brief(self.find(name))
        return self.error(f"{self.path}: {self.prefix}{name} is {found}, expected {expected}")

    def find(self, name: str) -> Any:
        """The value of a name as it is, or None."""
        return self.values.get(self.prefix + name)

    def fits(self, kind: type, value: Any) -> bool:
        """Whether a value is of a type."""
        if kind is tuple:
            return isinstance(value, list) and all(map(_is_integer, value))
        if kind is int:
            return _is_integer(value) and value >= 0
        if kind is float:
            return isinstance(value, float) and abs(value) <= MAX_FLOAT
        return isinstance(value, kind)

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.values


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class MetadataFields(Fields):
    """Metadata of a GGUF file, by keys.

    Attributes:
        owner: whose files all have the keys that are required.
    """

    owner: str = ""

    error = ModelFileError
    kinds: ClassVar = {
        int: "a non-negative integer",
        float: "a finite float32",
        bool: "true or false",
        str: "a string",
        tuple: "an array of integers",
    }

    def under(self, prefix: str) -> MetadataFields:
        """The same values by what follows a prefix."""
        return replace(self, prefix=self.prefix + prefix)

    def missing(self, name: str, kind: type) -> GraniteError:
        has = f"which every {self.owner} file has"
        return self.error(f"{self.path}: has no {self.prefix}{name}, {has}")


class JsonFields(Fields):
    """A JSON object of a checkpoint, whose fields may be objects again."""

    error = CheckpointError
    kinds: ClassVar = {
        int: "a non-negative integer",
        float: "a number that float32 can hold",
        bool: "true or false",
        str: "a string",
        tuple: "a list of integers",
        dict: "an object",
    }

    def section(self, name: str) -> JsonFields:
        """The object that a field holds; the prefix then tells where it stands.

        Raises:
            CheckpointError: there is none.
        """
        return JsonFields(self.path, self.get(dict, name), f"{self.prefix}{name}.")

    def find(self, name: str) -> Any:
        return self.values.get(name)

    def fits(self, kind: type, value: Any) -> bool:
        if kind is float and _is_integer(value):
            return bool(abs(value) <= MAX_FLOAT)
        sound = super().fits(kind, value)
        if kind is int:
            return sound and value < 1 << 31
        return sound and bool(value) if kind is tuple else sound

    def __contains__(self, name: str) -> bool:
        return name in self.values


def read_stage(
    stage: type[T], fields: Fields, form: str, optional: Collection[str] = (), **given: Any
) -> T:
    """A stage's hyper-parameters from fields that are named as a form of files names them.

    Args:
        stage: the dataclass.
        fields: the values.
        form: whose names, see :class:`granite_gguf.spec.parameters.Parameter`.
        optional: which have their default where the field is absent.
        given: values that the form does not hold, or holds otherwise.

    Raises:
        GraniteError: a value is missing or of another type.
    """
    values = dict(given)
    for p in parameters(stage):
        if p.name not in given and form in p.names:
            default = p.default if p.name in optional else REQUIRED
            values[p.name] = fields.get(p.type, p.names[form], default)
    return stage(**values)
