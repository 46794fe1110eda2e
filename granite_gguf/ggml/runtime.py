"""Devices, buffers and the execution of graphs: the owned handles over ggml's C interface."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from threading import RLock
from typing import Any

import ggml as c
import numpy as np
import numpy.typing as npt

from granite_gguf import memory
from granite_gguf.closing import Closing
from granite_gguf.errors import DeviceError, InputError, OutOfMemoryError
from granite_gguf.forks import tell_after_fork
from granite_gguf.ggml.tensor import Context, Tensor
from granite_gguf.ggml.types import F32, I32, GGMLType

logger = logging.getLogger("granite_gguf.ggml")

_LOG_LEVELS = {
    c.GGML_LOG_LEVEL_DEBUG: logging.DEBUG,
    c.GGML_LOG_LEVEL_INFO: logging.DEBUG,
    c.GGML_LOG_LEVEL_WARN: logging.WARNING,
    c.GGML_LOG_LEVEL_ERROR: logging.ERROR,
}

_NUMPY_TYPES = {F32: np.dtype(np.float32), I32: np.dtype(np.int32)}

MAX_GRAPH_NODES = 16384
# What ggml's scheduler asks for and leaves empty, by node that a graph may have.
_SCHEDULER_BYTES = 20_480

Reader = Callable[[npt.NDArray[Any]], Any]
"""Takes what is wanted from an output, whose array is only lent."""


@c.ggml_log_callback  # type: ignore[untyped-decorator]
def _forward_log(level: int, message: bytes, _user_data: Any) -> None:
    text = message.decode(errors="replace").rstrip()
    if text:
        logger.log(_LOG_LEVELS.get(level, logging.DEBUG), "%s", text)


@dataclass(frozen=True)
class DeviceInfo:
    """A device of this build of ggml."""

    name: str
    description: str
    kind: str  # "cpu", "gpu", "igpu" or "accel"
    free_bytes: int
    total_bytes: int


_DEVICE_KINDS = {
    c.GGML_BACKEND_DEVICE_TYPE_CPU: "cpu",
    c.GGML_BACKEND_DEVICE_TYPE_GPU: "gpu",
    c.GGML_BACKEND_DEVICE_TYPE_IGPU: "igpu",
    c.GGML_BACKEND_DEVICE_TYPE_ACCEL: "accel",
}


def _device_handles() -> Iterator[tuple[Any, DeviceInfo]]:
    c.ggml_log_set(_forward_log, None)
    for index in range(c.ggml_backend_dev_count()):
        handle = c.ggml_backend_dev_get(index)
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        c.ggml_backend_dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
        yield (
            handle,
            DeviceInfo(
                name=c.ggml_backend_dev_name(handle).decode(),
                description=c.ggml_backend_dev_description(handle).decode(),
                kind=_DEVICE_KINDS.get(c.ggml_backend_dev_type(handle), "other"),
                free_bytes=free.value,
                total_bytes=total.value,
            ),
        )


def list_devices() -> list[DeviceInfo]:
    """The devices that this build of ggml finds on this machine."""
    return [info for _, info in _device_handles()]


def default_threads() -> int:
    """The number of processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _choose(device: str) -> tuple[Any, DeviceInfo]:
    found = list(_device_handles())
    if device == "auto":
        for kind in ("gpu", "igpu", "cpu"):
            for handle, info in found:
                if info.kind == kind:
                    return handle, info
    for handle, info in found:
        if info.name.lower() == device.lower():
            return handle, info
    names = ", ".join(info.name for _, info in found)
    raise DeviceError(
        f"device {device!r} is not in this build of ggml; it has: {names}. "
        "Use 'auto' or one of these names; `granite-gguf doctor` tells how to build for a GPU"
    )


class Graph(Closing):
    """A compute graph under construction: named inputs, and outputs that are kept.

    Args:
        taps: names the intermediate results to keep besides the declared outputs. A graph whose
            taps are empty does no work for them.
        purpose: what it computes, for messages.
        remedy: what to do where that has no room.

    Raises:
        OutOfMemoryError: there is no room to describe it.
    """

    def __init__(
        self,
        taps: frozenset[str] = frozenset(),
        *,
        purpose: str = "This computation",
        remedy: str = memory.FREE_SOME,
    ) -> None:
        self.purpose, self.remedy = purpose, remedy
        room = Context.size(MAX_GRAPH_NODES, MAX_GRAPH_NODES)
        memory.require(0, "Computing", memory.FREE_SOME, unfilled=room)
        self._stack = ExitStack()
        self._context = Context(MAX_GRAPH_NODES, MAX_GRAPH_NODES)
        self._stack.callback(self._context.close)
        self.handle: Any = c.ggml_new_graph_custom(self._context.handle, MAX_GRAPH_NODES, False)
        self.taps = taps
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}

    def input(self, name: str, ne: Sequence[int], kind: GGMLType = F32) -> Tensor:
        tensor = self._context.new_tensor(name, ne, kind)
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

    def close(self) -> None:
        self._stack.close()


class Runtime(Closing):
    """One device, its CPU companion for what the device cannot do, and their scheduler.

    Args:
        device: ``auto`` (a GPU where the build has one), or a device's name.
        threads: CPU threads; by default as many as the process may run on.

    Attributes:
        lock: held by who uses it, where several threads do.

    Raises:
        DeviceError: no such device, or it could not be opened.
        OutOfMemoryError: there is no room for its threads.
        InputError: ``threads`` is out of range.
    """

    def __init__(self, device: str = "auto", threads: int | None = None) -> None:
        self.threads = default_threads() if threads is None else threads
        if not 1 <= self.threads <= c.GGML_MAX_N_THREADS:
            raise InputError(
                f"threads must be between 1 and {c.GGML_MAX_N_THREADS}, not {self.threads}"
            )
        self.device_handle, self.device = _choose(device)
        self.threads_to_start = 2 * self.threads  # those that place weights, and ggml's own
        self._work_bytes = 0
        memory.require(
            0,
            f"Computing with {self.threads} threads",
            "Use fewer threads, or raise the limit",
            unfilled=MAX_GRAPH_NODES * _SCHEDULER_BYTES
            + self.threads_to_start * memory.stack_bytes(),
        )
        self.lock = RLock()
        self._start()
        tell_after_fork(self)

    def _start(self) -> None:
        self._stack = ExitStack()
        # Whoever waits for a thread of its own hears signals meanwhile.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="granite-gguf")
        self._stack.callback(self._thread.shutdown)
        handles = [self._open(self.device_handle)]
        if self.device.kind != "cpu":
            handles.append(self._open(c.ggml_backend_dev_by_type(c.GGML_BACKEND_DEVICE_TYPE_CPU)))
        c.ggml_backend_cpu_set_n_threads(handles[-1], self.threads)
        self._backends = handles
        backends = (c.ggml_backend_t_ctypes * len(handles))(*handles)
        self._scheduler: Any = c.ggml_backend_sched_new(
            backends, None, len(handles), MAX_GRAPH_NODES, False, True
        )
        if not self._scheduler:
            raise DeviceError("ggml could not create its scheduler")
        self._stack.callback(c.ggml_backend_sched_free, self._scheduler)
        self._forked = False

    def after_fork(self) -> None:
        """Leave to the parent what computes; the first use in the child makes it anew.

        Each thread has an OpenMP team of its own, so that the new thread begins a new one. Nothing
        is freed, as the parent may have been in the middle of using it.
        """
        self._forked = True
        self.lock = RLock()
        self._stack = ExitStack()

    def _begin_anew(self) -> None:
        if not self._forked:
            return
        if self.device.kind != "cpu":
            raise DeviceError(
                f"{self.device.name} was opened by the parent of this process and cannot be used "
                "in a forked child: load the model in the child, or start children by 'spawn'"
            )
        self._work_bytes = 0
        self._start()

    @property
    def scheduler(self) -> Any:
        """ggml's scheduler of this process."""
        self._begin_anew()
        return self._scheduler

    def _open(self, handle: Any) -> Any:
        backend = c.ggml_backend_dev_init(handle, None)
        if not backend:
            raise DeviceError(f"{c.ggml_backend_dev_name(handle).decode()} could not be opened")
        self._stack.callback(c.ggml_backend_free, backend)
        return backend

    @property
    def maps_host_memory(self) -> bool:
        """Whether weights can be read where the file is mapped, without a copy."""
        return self.device.kind == "cpu"

    def require(self, needed: int, purpose: str, remedy: str) -> None:
        """Refuse what does not fit into the memory of this process, see :func:`memory.require`."""
        stacks = self.threads_to_start * memory.stack_bytes()
        memory.require(needed, purpose, remedy, unfilled=stacks)

    def device_room(self, handle: Any) -> memory.Room | None:
        """What is free on a device of its own memory; None where that is the process's."""
        if c.ggml_backend_dev_type(handle) == c.GGML_BACKEND_DEVICE_TYPE_CPU:
            return None
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        c.ggml_backend_dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
        unknown = not total.value
        name = c.ggml_backend_dev_name(handle).decode()
        return memory.Room(1 << 62 if unknown else free.value, f"the device {name}")

    def compute(
        self,
        graph: Graph,
        inputs: Mapping[str, npt.NDArray[Any]],
        readers: Mapping[str, Reader] | None = None,
    ) -> dict[str, Any]:
        """Run a graph and return its outputs by name, or what readers make of them.

        Arrays are in numpy order: an input of shape ``(T, D)`` fills a tensor ``[D, T]``. A large
        output of which little is wanted need not be copied where it has a reader.

        Raises:
            InputError: inputs are missing or misshapen.
            DeviceError: the device ran out of memory or failed.
        """
        if inputs.keys() != graph.inputs.keys():
            raise InputError(f"inputs {sorted(inputs)} given, {sorted(graph.inputs)} expected")
        self._begin_anew()
        with memory.starting_threads():
            running = self._thread.submit(self._compute, graph, inputs, readers or {})
        try:
            return running.result()
        finally:
            # Whoever is interrupted must not free what is still being computed with.
            while not running.done():
                with suppress(KeyboardInterrupt):
                    wait([running])

    def _compute(
        self,
        graph: Graph,
        inputs: Mapping[str, npt.NDArray[Any]],
        readers: Mapping[str, Reader],
    ) -> dict[str, Any]:
        scheduler = self.scheduler
        try:
            work = self.check_room(graph)
            # Reserving plans the memory anew. Without it ggml keeps the last graph's plan for any
            # graph with as many nodes, even where an input stands in the place of a weight.
            reserved = c.ggml_backend_sched_reserve(scheduler, graph.handle)
            if not reserved or not c.ggml_backend_sched_alloc_graph(scheduler, graph.handle):
                raise OutOfMemoryError(
                    f"{graph.purpose}: {self.device.name} refused the memory. {graph.remedy}"
                )
            for name, tensor in graph.inputs.items():
                _fill(name, tensor, inputs[name])
            status = c.ggml_backend_sched_graph_compute(scheduler, graph.handle)
            self.threads_to_start = 0
            self._work_bytes = max(work, self._work_bytes)
            if status != c.GGML_STATUS_SUCCESS:
                message = c.ggml_status_to_string(status).decode()
                raise DeviceError(f"{self.device.name}: {message}")
            return {n: readers.get(n, np.copy)(_look(t)) for n, t in graph.outputs.items()}
        finally:
            c.ggml_backend_sched_reset(scheduler)

    def check_room(self, graph: Graph) -> int:
        """Refuse a graph before any of its memory is asked for.

        ggml aborts the process where the memory for an operation's intermediate results is refused.

        Returns:
            The bytes of those.

        Raises:
            OutOfMemoryError: it does not fit.
        """
        scheduler = self.scheduler
        sizes = (ctypes.c_size_t * len(self._backends))()
        c.ggml_backend_sched_reserve_size(scheduler, graph.handle, sizes)
        c.ggml_backend_sched_reset(scheduler)
        own = sum(tensor.byte_count for tensor in graph.outputs.values())
        work = self._work_bytes
        if len(self._backends) == 1:
            work = int(c.ggml_graph_plan(graph.handle, self.threads, None).work_size)
            own += max(0, work - self._work_bytes)
        for backend, size in zip(self._backends, sizes, strict=True):
            held = c.ggml_backend_sched_get_buffer_size(scheduler, backend)
            needed = max(0, size - held)
            room = self.device_room(c.ggml_backend_get_device(backend))
            if room is None:
                own += needed
            else:
                memory.require(needed, graph.purpose, graph.remedy, room=room)
        self.require(own, graph.purpose, graph.remedy)
        return work

    def close(self) -> None:
        self._stack.close()


def _numpy_shape(tensor: Tensor) -> tuple[int, ...]:
    ne = list(tensor.ne)
    while len(ne) > 1 and ne[-1] == 1:
        ne.pop()
    return tuple(reversed(ne))


def _fill(name: str, tensor: Tensor, array: npt.NDArray[Any]) -> None:
    expected = _NUMPY_TYPES[tensor.type]
    shape = _numpy_shape(tensor)
    data = np.ascontiguousarray(array)
    if data.dtype != expected or data.size != tensor.element_count:
        raise InputError(
            f"{name}: {data.dtype} of shape {data.shape} given, {expected} of {shape} expected"
        )
    c.ggml_backend_tensor_set(tensor.handle, data.ctypes.data, 0, data.nbytes)


def _look(tensor: Tensor) -> npt.NDArray[Any]:
    """A tensor's elements: a view where they lie in host memory, otherwise a copy."""
    shape, kind = tuple(reversed(tensor.ne)), _NUMPY_TYPES[tensor.type]
    fields = tensor.handle.contents
    if c.ggml_backend_buffer_is_host(fields.buffer):
        lent = (ctypes.c_char * tensor.byte_count).from_address(fields.data)
        return np.frombuffer(memoryview(lent), kind).reshape(shape)
    array = np.empty(shape, kind)
    c.ggml_backend_tensor_get(tensor.handle, array.ctypes.data, 0, array.nbytes)
    return array
