"""ggml graphs of the stages: each declares its inputs and outputs and reads weights by name."""
