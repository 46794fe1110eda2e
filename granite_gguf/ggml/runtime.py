"""Devices, buffers and the execution of graphs: the owned handles over ggml's C interface."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping
from concurrent.futures import wait
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from typing import Any, TypeVar

import ggml as c
import numpy as np
import numpy.typing as npt

from granite_gguf import memory
from granite_gguf.closing import Closing
from granite_gguf.errors import DeviceError, InputError, OutOfMemoryError
from granite_gguf.forks import tell_after_fork
from granite_gguf.ggml.crew import Crew
from granite_gguf.ggml.devices import choose_device, default_threads
from granite_gguf.ggml.graph import MAX_NODES, Graph
from granite_gguf.ggml.tensor import Tensor, check
from granite_gguf.ggml.turns import Turns
from granite_gguf.ggml.types import F16, F32, I32, GGMLType

T = TypeVar("T")

_NUMPY_TYPES: dict[GGMLType, np.dtype[Any]] = {
    F32: np.dtype(np.float32),
    F16: np.dtype(np.float16),
    I32: np.dtype(np.int32),
}

# What ggml's scheduler asks for and leaves empty, by node that a graph may have.
_SCHEDULER_BYTES = 20_480

_SUMS_IN_FLOAT32 = "GGML_CUDA_FORCE_CUBLAS_COMPUTE_32F"

UNWATCHED: Any = c.ggml_backend_sched_eval_callback()
"""What is called for every operation where nobody watches: nothing."""

Reader = Callable[[npt.NDArray[Any]], Any]
"""Takes what is wanted from an output, whose array is only lent."""


class Runtime(Closing):
    """One device, its CPU companion for what the device cannot do, and their scheduler.

    Args:
        device: ``auto`` (a GPU where the build has one), or a device's name.
        threads: CPU threads; by default as many as the process may run on.
        turn: what :attr:`lock` is, where other runtimes share the threads.

    Attributes:
        watcher: ggml's callback, which is asked before every operation and told after it.

    Raises:
        DeviceError: no such device, or it could not be opened.
        OutOfMemoryError: there is no room for its threads.
        InputError: ``threads`` is out of range.
    """

    def __init__(
        self,
        device: str = "auto",
        threads: int | None = None,
        turn: Callable[[], AbstractContextManager[None]] | None = None,
    ) -> None:
        self._turn = turn or Turns(1).all
        self.threads = default_threads() if threads is None else threads
        if not 1 <= self.threads <= c.GGML_MAX_N_THREADS:
            raise InputError(
                f"threads must be between 1 and {c.GGML_MAX_N_THREADS}, not {self.threads}"
            )
        self.device_handle, self.device = choose_device(device)
        self.threads_to_start = 2 * self.threads  # those that place weights, and ggml's own
        self._work_bytes = 0
        self.watcher = UNWATCHED
        memory.require(
            0,
            f"Computing with {self.threads} threads",
            "Use fewer threads, or raise the limit",
            unfilled=MAX_NODES * _SCHEDULER_BYTES + self.threads_to_start * memory.stack_bytes(),
        )
        self._start()
        tell_after_fork(self)

    def _start(self) -> None:
        self._stack = ExitStack()
        if self.apart:
            # Otherwise ggml sums half-precision products in half precision, which overflows.
            os.environ.setdefault(_SUMS_IN_FLOAT32, "1")
        self._crew = self._stack.enter_context(Crew(self.threads))
        handles = [self._open(self.device_handle)]
        if self.apart:
            handles.append(self._open(c.ggml_backend_dev_by_type(c.GGML_BACKEND_DEVICE_TYPE_CPU)))
        c.ggml_backend_cpu_set_n_threads(handles[-1], self.threads)
        self._backends = handles
        self._scheduler = self._new_scheduler(MAX_NODES, self._stack)
        self._forked = False

    def _new_scheduler(self, nodes: int, stack: ExitStack) -> Any:
        """What divides graphs of so many nodes among the devices, and holds their memory."""
        backends = (c.ggml_backend_t_ctypes * len(self._backends))(*self._backends)
        scheduler = c.ggml_backend_sched_new(
            backends, self._buffer_types(), len(self._backends), nodes, False, True
        )
        if not scheduler:
            raise DeviceError("ggml could not create its scheduler")
        stack.callback(c.ggml_backend_sched_free, scheduler)
        return scheduler

    def _buffer_types(self) -> Any:
        """Of each backend, the memory for what it computes; None for the usual.

        What goes to a device of its own waits for it in memory that the device copies from by
        itself, where it has such.
        """
        pinned = c.ggml_backend_dev_host_buffer_type(self.device_handle) if self.apart else None
        if not pinned:
            return None
        own = c.ggml_backend_dev_buffer_type(self.device_handle)
        return (c.ggml_backend_buffer_type_t_ctypes * 2)(own, pinned)

    def after_fork(self) -> None:
        """Leave to the parent what computes; the first use in the child makes it anew.

        Each thread has an OpenMP team of its own, so that the new thread begins a new one. Nothing
        is freed, as the parent may have been in the middle of using it.
        """
        self._forked = True
        self._stack = ExitStack()

    def _begin_anew(self) -> None:
        if not self._forked:
            return
        if self.apart:
            raise DeviceError(
                f"{self.device.name} was opened by the parent of this process and cannot be used "
                "in a forked child: load the model in the child, or start children by 'spawn'"
            )
        self._work_bytes = 0
        self._start()

    @property
    def lock(self) -> AbstractContextManager[None]:
        """Held by who uses it, where several threads do; who holds it may take it again."""
        return self._turn()

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
    def apart(self) -> bool:
        """Whether it computes elsewhere than on the processor, in memory of its own."""
        return self.device.kind != "cpu"

    @property
    def watched(self) -> bool:
        """Whether somebody looks at what operations read and write."""
        return self.watcher is not UNWATCHED

    @property
    def maps_host_memory(self) -> bool:
        """Whether weights can be read where the file is mapped, without a copy."""
        return not self.apart

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
        _check_names(graph, inputs)
        return self._in_thread(lambda: self._compute(graph, inputs, readers or {}))

    def keep(self, graph: Graph) -> KeptGraph:
        """Plan a finished graph once, to be run as often as wanted with new inputs.

        Raises:
            OutOfMemoryError: there is no room for it.
        """
        return KeptGraph(self, graph)

    def _in_thread(self, work: Callable[[], T]) -> T:
        self._begin_anew()
        # Whoever waits for another thread hears signals meanwhile.
        with self._crew.thread() as thread:
            running = thread.submit(work)
            try:
                return running.result()
            finally:
                # Whoever is interrupted must not free what is still being computed with.
                while not running.done():
                    with suppress(KeyboardInterrupt):
                        wait([running])

    def _compute(
        self, graph: Graph, inputs: Mapping[str, npt.NDArray[Any]], readers: Mapping[str, Reader]
    ) -> dict[str, Any]:
        try:
            self._plan(self.scheduler, graph)
            return self._run(self.scheduler, graph, inputs, readers)
        finally:
            c.ggml_backend_sched_reset(self.scheduler)

    def _plan(self, scheduler: Any, graph: Graph) -> None:
        """Give the nodes of a graph their places in a scheduler's memory."""
        work = self._check_room(scheduler, graph)
        # Reserving plans the memory anew. Without it ggml keeps the last graph's plan for any
        # graph with as many nodes, even where an input stands in the place of a weight.
        with self._unchanged(graph):
            reserved = c.ggml_backend_sched_reserve(scheduler, graph.handle)
        if not reserved or not c.ggml_backend_sched_alloc_graph(scheduler, graph.handle):
            raise OutOfMemoryError(
                f"{graph.purpose}: {self.device.name} refused the memory. {graph.remedy}"
            )
        self._work_bytes = max(work, self._work_bytes)

    def _run(
        self,
        scheduler: Any,
        graph: Graph,
        inputs: Mapping[str, npt.NDArray[Any]],
        readers: Mapping[str, Reader],
    ) -> dict[str, Any]:
        for name, tensor in graph.inputs.items():
            _fill(name, tensor, inputs[name])
        c.ggml_backend_sched_set_eval_callback(scheduler, self.watcher, None)
        status = c.ggml_backend_sched_graph_compute(scheduler, graph.handle)
        self.threads_to_start = 0
        if status != c.GGML_STATUS_SUCCESS:
            message = c.ggml_status_to_string(status).decode()
            raise DeviceError(f"{self.device.name}: {message}")
        return {n: readers.get(n, np.copy)(look(t)) for n, t in graph.outputs.items()}

    def check_room(self, graph: Graph) -> None:
        """Refuse a graph before any of its memory is asked for.

        Raises:
            OutOfMemoryError: it does not fit.
        """
        self._check_room(self.scheduler, graph)

    def _check_room(self, scheduler: Any, graph: Graph) -> int:
        """Refuse a graph that does not fit.

        ggml aborts the process where the memory for an operation's intermediate results is refused.

        Returns:
            The bytes of those.
        """
        sizes = (ctypes.c_size_t * len(self._backends))()
        with self._unchanged(graph):
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

    def _unchanged(self, graph: Graph) -> AbstractContextManager[None]:
        """Where one device does everything, planning changes nothing."""
        return graph.unchanged() if len(self._backends) > 1 else nullcontext()

    def close(self) -> None:
        self._stack.close()


class KeptGraph(Closing):
    """A graph with memory of its own, which is planned once and run again and again.

    :meth:`Runtime.compute` plans a graph every time, which takes longer than running a small one.
    Close it before the runtime, and before the graph.
    """

    def __init__(self, runtime: Runtime, graph: Graph) -> None:
        self._runtime, self._graph = runtime, graph
        self._stack = ExitStack()
        self._scheduler: Any = None
        runtime._in_thread(self._plan)
        tell_after_fork(self)

    def after_fork(self) -> None:
        """Leave the plan to the parent, as :class:`Runtime` does."""
        self._stack, self._scheduler = ExitStack(), None

    def _plan(self) -> None:
        graph, nodes = self._graph, 2 * self._graph.nodes  # operations, and what they read
        memory.require(0, graph.purpose, graph.remedy, unfilled=nodes * _SCHEDULER_BYTES)
        with ExitStack() as stack:
            scheduler = self._runtime._new_scheduler(nodes, stack)
            self._runtime._plan(scheduler, graph)
            self._stack, self._scheduler = stack.pop_all(), scheduler

    def run(
        self, inputs: Mapping[str, npt.NDArray[Any]], readers: Mapping[str, Reader] | None = None
    ) -> dict[str, Any]:
        """Run it once more, as :meth:`Runtime.compute` does."""
        _check_names(self._graph, inputs)
        return self._runtime._in_thread(lambda: self._run(inputs, readers or {}))

    def _run(
        self, inputs: Mapping[str, npt.NDArray[Any]], readers: Mapping[str, Reader]
    ) -> dict[str, Any]:
        if self._scheduler is None:
            self._plan()
        return self._runtime._run(self._scheduler, self._graph, inputs, readers)

    def close(self) -> None:
        self._stack.close()


def _check_names(graph: Graph, inputs: Mapping[str, Any]) -> None:
    if inputs.keys() != graph.inputs.keys():
        raise InputError(f"inputs {sorted(inputs)} given, {sorted(graph.inputs)} expected")


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
    check(bool(tensor.handle.contents.buffer), f"{name}, an input that no output needs", tensor)
    if tensor.below is not None and not 0 <= data.min() <= data.max() < tensor.below:
        raise InputError(
            f"{name}: {data.min()} to {data.max()} given, expected 0 to {tensor.below - 1}"
        )
    c.ggml_backend_tensor_set(tensor.handle, data.ctypes.data, 0, data.nbytes)


def look(tensor: Tensor) -> npt.NDArray[Any]:
    """A tensor's elements: a view where they lie in host memory, otherwise a copy."""
    shape, kind = tuple(reversed(tensor.ne)), _NUMPY_TYPES[tensor.type]
    fields = tensor.handle.contents
    if c.ggml_backend_buffer_is_host(fields.buffer):
        lent = (ctypes.c_char * tensor.byte_count).from_address(fields.data)
        return np.frombuffer(memoryview(lent), kind).reshape(shape)
    array = np.empty(shape, kind)
    c.ggml_backend_tensor_get(tensor.handle, array.ctypes.data, 0, array.nbytes)
    return array
