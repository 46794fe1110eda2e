"""Write a trained miniature as a checkpoint directory and as a GGUF file.

python -m training.export RUN

    RUN/passes.pt   -> RUN/model/model.safetensors (bfloat16) -> RUN/granite-nle-demo-F16.gguf
    RUN/editor.pt      the same, where there is no passes.pt
    RUN/language.pt -> RUN/model/model.safetensors (bfloat16) -> RUN/granite-speech-demo-F16.gguf
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from granite_gguf.converters import convert
from granite_gguf.reference import to_checkpoint
from granite_gguf.reference.speech.model import checkpoint_key
from training import base, miniature

NAR, BASE = "granite-nle-demo", "granite-speech-demo"


def stored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as the published checkpoints hold them: every float in bfloat16."""
    return {
        name: tensor.to(torch.bfloat16 if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in tensors.items()
    }


def export(run: Path) -> tuple[Path, Path]:
    """Write the run's checkpoint and its GGUF file; return their paths."""
    directory = run / "model"
    if (run / "language.pt").exists():
        name, tensors = BASE, _base_tensors(run)
    else:
        model, _ = miniature.untrained(directory, seed=0)
        name, tensors = NAR, to_checkpoint(_trained(model, _nar_state(run)))
    path, gguf = directory / "model.safetensors", run / f"{name}-F16.gguf"
    save_file(stored(tensors), path, metadata={"format": "pt"})
    convert(directory, gguf, name=name)
    return path, gguf


def _nar_state(run: Path) -> Path:
    passes = run / "passes.pt"
    return passes if passes.exists() else run / "editor.pt"


def _base_tensors(run: Path) -> dict[str, Tensor]:
    model, _ = base.untrained(run / "model", seed=0)
    state = _trained(model, run / "language.pt").state_dict()
    tensors = {checkpoint_key(name): tensor for name, tensor in state.items()}
    query = "projector.query"
    return tensors | {query: tensors[query][None]}  # as transformers has it


Model = TypeVar("Model", bound=nn.Module)


def _trained(model: Model, state: Path) -> Model:
    saved = torch.load(state, map_location="cpu", weights_only=True)
    model.load_state_dict(saved["model"])
    return model


def main() -> None:
    """Export the run that is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    args = parser.parse_args()
    for path in export(args.run):
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
