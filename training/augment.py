"""Variations of a batch of features, made where they are cheap: on the mel spectrogram.

features (B, T, 160) -> log10 power (B, 2 T, 80) -> warped, tilted, louder -> + noise power
-> floor 8 decades below the loudest -> masks -> features (B, T, 160)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BANDS = 80
FLOOR = 8.0  # decades below the loudest value, as in the front end
MASKED = 150  # frames that `Strength.time_masks` are for


@dataclass(frozen=True)
class Strength:
    """How far the variations go."""

    warp: float = 0.12  # of the frequency axis
    tilt: float = 0.6  # decades over the whole spectrum, either way
    gain: float = 0.7  # decades, either way
    noise_share: float = 0.5  # of the utterances
    noise: tuple[float, float] = (0.8, 4.0)  # decades below the speech
    time_masks: int = 2
    time_mask: int = 8  # frames, at most
    band_masks: int = 2
    band_mask: int = 10  # bands, at most


def augmented(features: Tensor, generator: torch.Generator, strength: Strength) -> Tensor:
    """Another version of each utterance (B, T, 160), of the same length and in the same range."""
    batch, frames, _ = features.shape
    device = features.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(batch, *shape, generator=generator, device=device)

    power = (features.reshape(batch, 2 * frames, BANDS) - 1) * 4  # log10
    power = warped(power, 1 + uniform(-strength.warp, strength.warp))
    slope = torch.linspace(-0.5, 0.5, BANDS, device=device)
    power = power + uniform(-strength.tilt, strength.tilt, 1, 1) * slope
    power = power + uniform(-strength.gain, strength.gain, 1, 1)

    speech = 10**power
    level = speech.mean(dim=(1, 2)).log10() - uniform(*strength.noise)  # (B,)
    level[uniform(0, 1) > strength.noise_share] = -20
    colour = uniform(-1.5, 0.5, 1, 1) * slope + 0.2 * uniform(-1, 1, 1, BANDS)
    grain = torch.rand(power.shape, generator=generator, device=device).clamp(min=1e-6).log().neg()
    power = (speech + grain * 10 ** (level[:, None, None] + colour)).log10()
    power = torch.maximum(power, power.amax(dim=(1, 2), keepdim=True) - FLOOR)

    out = (power / 4 + 1).reshape(batch, frames, 2 * BANDS)
    return masked(out, generator, strength)


def warped(power: Tensor, factors: Tensor) -> Tensor:
    """Log power (B, N, 80) read at `factors` (B) times each band's place."""
    bands = torch.arange(BANDS, device=power.device)
    place = (bands * factors[:, None]).clamp(max=BANDS - 1)  # (B, 80)
    low = place.floor().long().clamp(max=BANDS - 2)
    share = (place - low)[:, None]
    rows = low[:, None].expand(power.shape)
    return power.gather(2, rows) * (1 - share) + power.gather(2, rows + 1) * share


def masked(features: Tensor, generator: torch.Generator, strength: Strength) -> Tensor:
    """Random runs of frames and of bands replaced by the utterance's mean."""
    batch, frames, width = features.shape
    device = features.device
    time, band = (torch.arange(size, device=device) for size in (frames, width))
    times = strength.time_masks * max(1, round(frames / MASKED))
    hidden = torch.zeros(batch, frames, width, dtype=torch.bool, device=device)
    for axis, size, count, longest in (
        (time[None, :, None], frames, times, strength.time_mask),
        ((band % BANDS)[None, None], BANDS, strength.band_masks, strength.band_mask),
    ):
        for _ in range(count):
            start, length = (
                torch.randint(0, most, (batch, 1, 1), generator=generator, device=device)
                for most in (size, longest + 1)
            )
            hidden |= (axis >= start) & (axis < start + length)
    return torch.where(hidden, features.mean(dim=(1, 2), keepdim=True), features)
