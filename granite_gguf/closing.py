"""What holds memory or handles and gives them back by its ``close``."""

from __future__ import annotations

from typing import TypeVar

_Self = TypeVar("_Self", bound="Closing")


class Closing:
    """A context manager that calls its own :meth:`close` at the end of the block."""

    def close(self) -> None:
        """Give back what is held. Calling it again does nothing."""
        raise NotImplementedError

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
