"""What is chosen by name, on the command line and in Python alike."""

from __future__ import annotations

from enum import Enum
from typing import TypeVar

from granite_gguf.errors import InputError

N = TypeVar("N", bound="Named")


class Named(str, Enum):
    """Something to choose by name."""

    def __str__(self) -> str:
        return str(self.value)

    @classmethod
    def of(cls: type[N], name: str) -> N:
        """The one of a name.

        Raises:
            InputError: there is none.
        """
        try:
            return cls(name)
        except ValueError:
            choices = " or ".join(repr(str(choice)) for choice in cls)
            raise InputError(f"{cls.__name__.lower()} is {name!r}, expected {choices}") from None
