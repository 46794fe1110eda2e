"""Graphs under construction: named inputs, and outputs that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import ggml as c

from granite_gguf import memory
from granite_gguf.closing import Closing
from granite_gguf.ggml.tensor import Context, Tensor
from granite_gguf.ggml.types import F32, GGMLType

MAX_NODES = 16384


class Graph(Closing):
    """A compute graph under construction: named inputs, and outputs that are kept.

    Args:
        taps: names the intermediate results to keep besides the declared outputs. A graph whose
            taps are empty does no work for them.
        purpose: what it computes, for messages.
        remedy: what to do where that has no room.
        nodes: the most operations and inputs that it will have.
        watched: whether what flows between its operations will be looked at.

    Raises:
        OutOfMemoryError: there is no room to describe it.
    """

    def __init__(
        self,
        taps: frozenset[str] = frozenset(),
        *,
        purpose: str = "This computation",
        remedy: str = memory.FREE_SOME,
        nodes: int = MAX_NODES,
        watched: bool = False,
    ) -> None:
        self.purpose, self.remedy, self.nodes = purpose, remedy, nodes
        memory.require(0, "Computing", memory.FREE_SOME, unfilled=Context.size(nodes, nodes))
        self._stack = ExitStack()
        self._context = Context(nodes, nodes)
        self._context.watched = watched
        self._stack.callback(self._context.close)
        self.handle: Any = c.ggml_new_graph_custom(self._context.handle, nodes, False)
        self.taps = taps
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}

    def input(
        self, name: str, ne: Sequence[int], kind: GGMLType = F32, *, below: int | None = None
    ) -> Tensor:
        """Declare an input; of integers that number rows, ``below`` tells how many there are."""
        tensor = self._context.new_tensor(name, ne, kind)
        tensor.below = below
        c.ggml_set_input(tensor.handle)
        self.inputs[name] = tensor
        return tensor

    def output(self, name: str, tensor: Tensor) -> Tensor:
        """Keep a result under ``name`` and make the graph compute it."""
        if not tensor.contiguous:
            tensor = tensor.contiguous_copy()
        c.ggml_set_name(tensor.handle, name.encode())
        c.ggml_set_output(tensor.handle)
        source = tensor.handle.contents.view_src
        if source:  # the memory is the viewed tensor's, and would be used again after its last use
            c.ggml_set_output(source)
        c.ggml_build_forward_expand(self.handle, tensor.handle)
        self.outputs[name] = tensor
        return tensor

    def tap(self, name: str, tensor: Tensor) -> Tensor:
        """Name an intermediate result; it is kept only when asked for."""
        return self.output(name, tensor) if name in self.taps else tensor

    def unchanged(self) -> AbstractContextManager[None]:
        """Lets the graph be after the block as it was before.

        A scheduler that plans for several devices puts copies in the place of what its operations
        read, which it forgets before it plans the next time.
        """
        return self._context.unchanged()

    def close(self) -> None:
        self._stack.close()
