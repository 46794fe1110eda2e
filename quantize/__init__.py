"""Quantization of `granite_nle` files: policies and their application."""
