"""The autoregressive model: a language model that continues a prompt with audio in it."""
