"""Write the trained miniature as a checkpoint directory and as a GGUF file.

python -m training.export RUN

    RUN/editor.pt -> RUN/model/model.safetensors (bfloat16) -> RUN/granite-nle-demo-F16.gguf
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from granite_gguf.converters import convert
from granite_gguf.reference import to_checkpoint
from training import miniature

GGUF_NAME = "granite-nle-demo-F16.gguf"


def stored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as the published checkpoints hold them: every float in bfloat16."""
    return {
        name: tensor.to(torch.bfloat16 if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in tensors.items()
    }


def export(run: Path) -> tuple[Path, Path]:
    """Write the run's checkpoint and its GGUF file; return their paths."""
    directory = run / "model"
    model, _ = miniature.untrained(directory, seed=0)
    saved = torch.load(run / "editor.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(saved["model"])
    path = directory / "model.safetensors"
    save_file(stored(to_checkpoint(model)), path, metadata={"format": "pt"})
    gguf = run / GGUF_NAME
    convert(directory, gguf)
    return path, gguf


def main() -> None:
    """Export the run that is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    for path in export(parser.parse_args().run):
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
