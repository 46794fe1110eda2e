"""Checkpoints of the non-autoregressive model."""
