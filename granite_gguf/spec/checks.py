"""Which hyper-parameters no model could have, whatever file they come from.

Every number is bound by a range beside its declaration or by the file's tensors, so that a file
cannot ask for memory without end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields

from granite_gguf.spec.hparams import Encoder, FrontEnd, Granite, HParams
from granite_gguf.spec.parameters import parameters

Check = tuple[bool, str]
"""Whether something holds, and what is wrong where it does not."""


def first_problem(checks: Iterable[Check]) -> str | None:
    """What is wrong by the first check that does not hold, or None."""
    return next((problem for holds, problem in checks if not holds), None)


def out_of_range(h: HParams) -> str | None:
    """The first number that is out of its declared range, or None."""
    for stage in fields(h):
        values = getattr(h, stage.name)
        for parameter in parameters(type(values)):
            value = getattr(values, parameter.name)
            expected = parameter.problem(value)
            if expected:
                owner = stage.name.replace("_", " ")
                return f"the {owner}'s {parameter.name} is {value}, expected {expected}"
    return None


def front_end_checks(f: FrontEnd) -> Iterator[Check]:
    """What holds among the numbers of a front end."""
    yield f.win_length <= f.n_fft, f"the window of {f.win_length} exceeds n_fft {f.n_fft}"
    least = max(1, f.sample_rate // 2000)
    yield (
        least <= f.hop_length <= f.n_fft,
        f"hop_length is {f.hop_length}, expected {least} to {f.n_fft}",
    )


def encoder_checks(e: Encoder, f: FrontEnd) -> Iterator[Check]:
    """What holds among the numbers of an encoder and of what it reads."""
    yield (
        e.input_dim == f.n_mels * f.frame_stack,
        f"the encoder reads {e.input_dim} features, the front end makes "
        f"{f.frame_stack} x {f.n_mels}",
    )
    yield e.conv_kernel % 2 == 1, f"the depthwise kernel of {e.conv_kernel} taps is even"
    yield (
        e.context_size <= e.max_pos_emb,
        f"attention blocks of {e.context_size} frames exceed the {e.max_pos_emb} positions",
    )
    yield (
        1 <= e.self_conditioning_layer <= e.n_layers,
        f"there is no self-conditioning layer {e.self_conditioning_layer} of {e.n_layers}",
    )
    yield (
        all(0 <= k <= e.n_layers for k in e.captured_blocks),
        f"captured layers {e.captured_layers} are not all within {e.n_layers} blocks",
    )


def projector_checks(width: int, heads: int, window: int, rate: int) -> Iterator[Check]:
    """What holds among the numbers of a projector: its width, heads, and a window's frames."""
    yield window % rate == 0, f"windows of {window} do not divide by {rate}"
    yield width % heads == 0, f"projector width {width} does not divide into {heads} heads"


def granite_checks(g: Granite) -> Iterator[Check]:
    """What holds among the numbers of Granite layers."""
    yield (
        g.n_heads % g.n_kv_heads == 0,
        f"{g.n_heads} query heads do not divide over {g.n_kv_heads} key heads",
    )
    yield g.head_dim % 2 == 0, f"rotary positions need an even head width, not {g.head_dim}"
    yield (
        max(g.eos_token_id, g.bos_token_id, g.pad_token_id) < g.vocab_size,
        f"special tokens lie beyond the vocabulary of {g.vocab_size}",
    )
