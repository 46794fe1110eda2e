"""Checkpoints of the autoregressive model."""
