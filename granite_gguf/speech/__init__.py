"""The autoregressive model."""
