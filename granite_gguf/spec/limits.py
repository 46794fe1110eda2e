"""What hyper-parameters may be at most, so that a file cannot ask for memory without end.

The tensors' shapes bind most numbers to the file's size. These few are bound by nothing else.
"""

from __future__ import annotations

from granite_gguf.spec.hparams import HParams

MAX_POSITIONS = 1 << 20


def out_of_range(h: HParams) -> str | None:
    """The first number that no model of this kind could have, or None."""
    f, e, y, d = h.front_end, h.encoder, h.hypothesis, h.editor
    ranges = [
        ("sample_rate", f.sample_rate, 1000, 768_000),
        ("n_fft", f.n_fft, 16, 1 << 16),
        ("hop_length", f.hop_length, max(1, f.sample_rate // 2000), f.n_fft),
        ("frame_stack", f.frame_stack, 1, 64),
        ("the encoder's n_layers", e.n_layers, 1, 256),
        ("the projector's n_layers", h.projector.n_layers, 1, 256),
        ("the editor's n_layers", d.n_layers, 1, 256),
        ("pooling_window", y.pooling_window, 1, 256),
        ("max_positions", d.max_positions, 16, MAX_POSITIONS),
        ("min_edit_length", d.min_edit_length, 0, d.max_positions // 2),
    ]
    return next(
        (
            f"{name} is {value}, expected {low} to {high}"
            for name, value, low, high in ranges
            if not low <= value <= high
        ),
        None,
    )
