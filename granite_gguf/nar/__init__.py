"""The stages of the non-autoregressive model, callable on numpy arrays."""
