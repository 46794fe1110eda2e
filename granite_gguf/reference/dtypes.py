"""What can be computed in, by name."""

import torch

TORCH_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
