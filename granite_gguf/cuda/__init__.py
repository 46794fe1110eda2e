"""Whole passes on an NVIDIA GPU, by kernels of our own and cuBLAS, which CuPy calls.

ggml's operations on a GPU are one for each step, in float32: their activations go through memory
many times. Here they are half precision, sums are float32, and what lies between two products is
one kernel.
"""
