"""An architecture: one kind of model, as a record of what its files hold and what runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol

from granite_gguf.cuda.gpu import Gpu, find_gpu, names_gpu
from granite_gguf.errors import InputError
from granite_gguf.ggml import Runtime, Turns
from granite_gguf.passes import Cache, Lane
from granite_gguf.placing.kernel_choice import AUTO, Precision
from granite_gguf.placing.weights import ModelWeights
from granite_gguf.recorded.stages import Parity
from granite_gguf.spec.derived import DerivedWeights, ReadWeight
from granite_gguf.spec.format import Format, H
from granite_gguf.storage.dialects.dialect import Dialect
from granite_gguf.storage.model_file import ModelFile
from granite_gguf.tokenizer import SpeechTokenizer


class MakeLane(Protocol):
    """Makes what runs a file's weights on a runtime.

    Raises:
        InputError: the model keeps no cache, and one of another type than usual is asked for.
    """

    def __call__(
        self,
        file: ModelFile[Any],
        tokenizer: SpeechTokenizer,
        weights: ModelWeights,
        runtime: Runtime,
        *,
        precision: Precision,
        cache: Cache,
        gpu: Gpu | None,
    ) -> Lane: ...


@dataclass(frozen=True)
class Architecture(Generic[H]):
    """What is to be known of one kind of model; nothing outside its own rooms knows more.

    Attributes:
        room: the folder that is its own, here and with the converters, where ``layouts`` has what
            reads its checkpoints.
        format: its name, hyper-parameters, tensors and checks.
        dialects: the readers of its files, our own first.
        derived: computes the weights that the graphs read in place of some tensors.
        lane: makes what runs a file's weights on a runtime.
        parity: how its models are compared, stage by stage.
        without_gpu: why a model cannot be computed by our kernels on a GPU, if it cannot.
        assumed: sentences about what a file does not tell, and is taken to be so.
    """

    room: str
    format: Format[H]
    dialects: tuple[Dialect[H], ...]
    derived: Callable[[H, ReadWeight], DerivedWeights]
    lane: MakeLane
    parity: Parity[H]
    without_gpu: Callable[[H], str | None] = lambda _h: "there are none for its architecture"
    assumed: Callable[[ModelFile[H]], Iterable[str]] = lambda _file: ()


def own_gpu(
    file: ModelFile[Any], architecture: Architecture[Any], device: str, kernels: str
) -> Gpu | None:
    """The GPU on which our kernels compute the passes, if one is asked for or found.

    Raises:
        InputError: it is asked for, and they cannot.
        MissingExtraError: it is asked for, and CuPy is not installed.
        DeviceError: it is asked for, and is not there.
    """
    against = architecture.without_gpu(file.hparams)
    if kernels != AUTO:
        against = against or f"kernels are {kernels!r}, and it has its own"
    if against and names_gpu(device):
        raise InputError(
            f"{file.path}: cannot be computed by our kernels on {device!r}: {against}. A ggml that "
            "is built for CUDA names its GPUs CUDA0, CUDA1, ..."
        )
    return None if against else find_gpu(device)


def lane_maker(
    make: Callable[[Runtime], Lane],
    lanes: list[Lane],
    stack: ExitStack,
    turns: Turns,
    device: str,
    threads: int,
) -> Callable[[int], Lane]:
    """What adds lanes, each with its share of the threads.

    Args:
        make: makes one on a runtime.
        lanes: those that there are, to which it adds.
        stack: closes what is made.
        turns: the lanes', by their numbers.
        device: the name of what computes.
        threads: of each.
    """

    def new_lane(number: int) -> Lane:
        runtime = Runtime(device, threads, partial(turns.one, number))
        stack.callback(runtime.close)
        lanes.append(make(runtime))
        return lanes[-1]

    return new_lane
