"""Sizes as a person reads them."""

from __future__ import annotations


def megabytes(count: int) -> str:
    """A size in decimal units, as download pages give it."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
