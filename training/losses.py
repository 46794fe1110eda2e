"""CTC on every head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def ctc(
    logits: Tensor, targets: Sequence[Sequence[int]], blank: int, rows: Tensor | None = None
) -> Tensor:
    """Mean loss per target token of logits (B, T, V), of which the first `rows` (B) are real."""
    batch, length, _ = logits.shape
    lengths = torch.tensor([len(target) for target in targets])
    flat = torch.tensor([token for target in targets for token in target])
    return F.ctc_loss(
        logits.float().log_softmax(dim=-1).transpose(0, 1),
        flat.to(logits.device),
        torch.full((batch,), length) if rows is None else rows,
        lengths,
        blank=blank,
        zero_infinity=True,
    )
