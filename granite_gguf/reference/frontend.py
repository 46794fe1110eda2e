"""Log-mel front end.

    samples (n) -> STFT power (257, 1 + n // 160) -> mel (frames, 80) -> cut -> log10, floor, scale
                -> two frames side by side (T, 160)

No dither, no pre-emphasis, no DC removal. T = n // 320; ceil((n // 160 + 1) / 2) when every mel
frame is kept; (n // 160 + 1) // 2 when the cut follows the maximum. Fewer than 257 samples cannot
be padded by reflection: they give no frame.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from granite_gguf.reference.config import FrontEndConfig

POWER_FLOOR = 1e-10
DYNAMIC_RANGE = 8.0  # decades below the loudest value of the utterance


def mel_bank(config: FrontEndConfig) -> Tensor:
    """HTK triangles with peak 1 and no area normalisation, (n_fft // 2 + 1, n_mels) in float32.

    Every step is taken in float32, as `torchaudio.functional.melscale_fbanks` does: a bank built
    in float64 differs from it by 5e-6.
    """
    nyquist = config.sample_rate // 2
    bins = torch.linspace(0, nyquist, config.n_fft // 2 + 1)
    mels = torch.linspace(0.0, 2595.0 * math.log10(1.0 + nyquist / 700.0), config.n_mels + 2)
    edges = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    widths = edges[1:] - edges[:-1]
    distance = bins[:, None] - edges  # (bins, n_mels + 2)
    rising = distance[:, :-2] / widths[:-1]
    falling = -distance[:, 2:] / widths[1:]
    return torch.minimum(rising, falling).clamp(min=0.0)


def n_frames(n_samples: int, config: FrontEndConfig) -> int:
    """Encoder frames that `n_samples` samples give."""
    if n_samples <= config.n_fft // 2:
        return 0
    if config.keep_all_frames:
        return math.ceil((n_samples // config.hop_length + 1) / config.frame_stack)
    if config.cut_after_maximum:
        return (n_samples // config.hop_length + 1) // config.frame_stack
    return n_samples // (config.hop_length * config.frame_stack)


def mel_power(audio: Tensor, config: FrontEndConfig) -> Tensor:
    """Samples (n), at least 257 of them -> mel power of every STFT frame (1 + n // 160, n_mels)."""
    spectrum = torch.stft(
        audio,
        config.n_fft,
        hop_length=config.hop_length,
        win_length=config.win_length,
        # torch.stft centres the shorter window in n_fft: 56 zeros on each side.
        window=torch.hann_window(config.win_length, periodic=True, dtype=audio.dtype),
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )  # (257, frames)
    return spectrum.abs().square().T @ mel_bank(config).to(audio.dtype)


def log_mel(audio: Tensor, config: FrontEndConfig) -> Tensor:
    """Samples (n) in [-1, 1], float32 or float64 -> stacked features (T, frame_stack * n_mels)."""
    length = n_frames(audio.shape[0], config) * config.frame_stack
    if length == 0:
        return audio.new_zeros(0, config.frame_stack * config.n_mels)
    power = mel_power(audio, config)
    if not config.cut_after_maximum:
        # Cut (or completed with a silent frame) before the maximum is taken: what is not seen by
        # the encoder must not move the floor.
        power = power[:length]
        power = F.pad(power, (0, 0, 0, length - power.shape[0]))
    logs = power.clamp(min=POWER_FLOOR).log10()
    logs = torch.maximum(logs, logs.max() - DYNAMIC_RANGE)[:length]
    return (logs / 4.0 + 1.0).reshape(-1, config.frame_stack * config.n_mels)
