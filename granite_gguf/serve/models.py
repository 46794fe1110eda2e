"""The models of a service: each loaded when it is first asked for, and let go when memory asks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from granite_gguf.errors import OutOfMemoryError
from granite_gguf.model import Model
from granite_gguf.serve.faults import ApiError

ALIASES = frozenset({"whisper-1"})
"""Names that stock clients send; they stand for the first model."""


@dataclass
class _Entry:
    """A model that there is, loaded or not.

    Attributes:
        source: what loads it.
        model: it, while it is loaded.
        users: how many hold it.
        used: when it was last let go.
    """

    source: str
    model: Model | None = None
    users: int = 0
    used: float = 0.0


class Models:
    """Models by name. Belongs to one event loop.

    Args:
        sources: what each is loaded from, the first for who asks for none.
        load: loads one; takes long.
    """

    def __init__(self, sources: Mapping[str, str], load: Callable[[str], Model]) -> None:
        self._entries = {name: _Entry(source) for name, source in sources.items()}
        self._load = load
        self._loading = asyncio.Lock()
        self.created = int(time.time())

    @property
    def names(self) -> list[str]:
        """All of them."""
        return list(self._entries)

    @property
    def first(self) -> str:
        """The one for who asks for none."""
        return self.names[0]

    def find(self, name: str | None) -> str:
        """The model of a name or an alias.

        Raises:
            ApiError: there is none.
        """
        if not name or name in ALIASES - self._entries.keys():
            return self.first
        if name not in self._entries:
            known = ", ".join(self.names)
            raise ApiError(
                404, f"there is no model {name!r}, expected one of {known}",
                param="model", code="model_not_found",
            )  # fmt: skip
        return name

    def is_loaded(self, name: str) -> bool:
        """Whether it is."""
        return self._entries[name].model is not None

    def passes(self) -> dict[str, dict[int, int]]:
        """Of those that are loaded, how many passes took so many recordings."""
        return {n: e.model.passes for n, e in self._entries.items() if e.model is not None}

    async def take(self, name: str) -> Model:
        """Hold a model, which is loaded where needed; :meth:`give_back` is to follow.

        Raises:
            GraniteError: it cannot be loaded, and is not held.
        """
        entry = self._entries[name]
        entry.users += 1
        try:
            if entry.model is None:
                async with self._loading:
                    if entry.model is None:
                        entry.model = await self._loaded(entry)
        except BaseException:
            entry.users -= 1
            raise
        return entry.model

    def give_back(self, name: str) -> None:
        """Hold it no longer."""
        entry = self._entries[name]
        entry.users -= 1
        entry.used = time.monotonic()

    async def free(self) -> bool:
        """Let go of the model that was idle longest; whether there was one."""
        idle = [e for e in self._entries.values() if e.model is not None and not e.users]
        if not idle:
            return False
        entry = min(idle, key=lambda entry: entry.used)
        model, entry.model = entry.model, None
        if model is not None:
            await asyncio.to_thread(model.close)
        return True

    async def close(self) -> None:
        """Let go of all that nobody holds."""
        while await self.free():
            pass

    async def _loaded(self, entry: _Entry) -> Model:
        while True:
            try:
                return await asyncio.to_thread(self._load, entry.source)
            except OutOfMemoryError:
                if not await self.free():
                    raise
