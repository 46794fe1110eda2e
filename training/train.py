"""Train a miniature.

The one that edits, first its encoder, then the projector and the editor on top of it:

python -m training.train encoder DATA RUN
python -m training.train editor DATA RUN
python -m training.train passes DATA RUN [--start CHECKPOINT]

The last goes on with projector and editor in passes of up to 22 s, from RUN/editor.pt or from the
weights of a checkpoint's directory.

The autoregressive one, on top of the first one's encoder:

python -m training.train language DATA RUN

Each stage keeps its state in RUN/<stage>.pt and goes on from there when it is run again.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from granite_gguf.reference import load_model, load_tokenizer
from training import base, dataset, miniature
from training.causal import LanguageStage
from training.dataset import Example
from training.passes import LENGTHS, Passes, as_example
from training.stages import EditorStage, EncoderStage, NarStage, PassesStage, Stage

EVERY = 25  # steps between lines of the log


@dataclass(frozen=True)
class Plan:
    """Length and pace of a stage."""

    steps: int
    peak: float  # learning rate
    frames: int  # of a batch
    warm_up: int = 300
    short_first: int = 0  # frames: the first epoch begins with utterances up to this length
    fixed_batches: int = 0  # the same batches in every epoch, this many; 0 makes new ones
    check: int = 250  # steps between evaluations, and between states
    weight_decay: float = 0.01
    clip: float = 1.0

    def rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to a hundredth."""
        if step < self.warm_up:
            return self.peak * (step + 1) / self.warm_up
        done = (step - self.warm_up) / max(self.steps - self.warm_up, 1)
        return self.peak * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * min(done, 1.0))))


PLANS = {
    "encoder": Plan(steps=2000, peak=1.2e-3, frames=4000, short_first=110),
    "editor": Plan(steps=4000, peak=1.5e-3, frames=4000, warm_up=200, fixed_batches=560),
    "passes": Plan(steps=3000, peak=1e-3, frames=4400, warm_up=100, fixed_batches=400, check=300),
    "language": Plan(
        steps=4450, peak=1.5e-3, frames=1600, short_first=130, fixed_batches=2000, check=500
    ),
}
STAGES: dict[str, type[NarStage]] = {
    "encoder": EncoderStage,
    "editor": EditorStage,
    "passes": PassesStage,
}
BEFORE = {"editor": "encoder", "passes": "editor"}  # the stages whose weights these begin with
WATCHED = 12  # passes of each length


def train(stage: Stage, plan: Plan, data: Data, state: Path, seed: int) -> None:
    """Run the stage to its end, from the state file if there is one."""
    parameters = list(stage.parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=plan.peak, betas=(0.9, 0.98), weight_decay=plan.weight_decay
    )
    first = 0
    if state.exists():
        saved = torch.load(state, map_location=stage.device, weights_only=True)
        stage.model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
    stage.begin()
    started, losses = time.monotonic(), []
    for step, batch in enumerate(data.batches(plan, seed, first), first):
        if step >= plan.steps:
            break
        for group in optimizer.param_groups:
            group["lr"] = plan.rate(step)
        loss = stage.loss(batch, step)
        optimizer.zero_grad()
        loss.total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, plan.clip)
        optimizer.step()
        losses.append(loss.parts)
        if (step + 1) % EVERY == 0:
            means = {name: sum(part[name] for part in losses) / len(losses) for name in losses[0]}
            text = " ".join(f"{name} {value:.3f}" for name, value in means.items())
            pace = (time.monotonic() - started) / (step + 1 - first)
            print(f"{clock()} {step + 1:5d} {text} | {pace:.2f} s/step", flush=True)
            losses = []
        if (step + 1) % plan.check == 0 or step + 1 == plan.steps:
            text = " ".join(f"{k} {v:.2%}" for k, v in stage.scores(data.development).items())
            print(f"{clock()} {step + 1:5d} development: {text}", flush=True)
            save(state, stage, optimizer, step + 1)


def save(path: Path, stage: Stage, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Replace the state file in one move, so that an interruption leaves a whole one."""
    part = path.with_suffix(".part")
    content: dict[str, Any] = {"model": stage.model.state_dict(), "step": step}
    torch.save(content | {"optimizer": optimizer.state_dict()}, part)
    part.rename(path)


def clock() -> str:
    """Time of day."""
    return time.strftime("%H:%M:%S")


class Data:
    """What a stage is trained on and watched with."""

    def __init__(self, train: list[Example], development: list[Example]) -> None:
        self.train = train
        self.development = development

    def batches(self, plan: Plan, seed: int, first: int) -> Iterator[list[Example]]:
        """Batches without end, in an order that the seed decides, from step `first` on."""
        step = epoch = 0
        groups: list[list[Example]] = []
        while True:
            rng = random.Random(f"{seed} {epoch}")
            if plan.fixed_batches and epoch:
                rng.shuffle(groups)
            else:
                short = 0 if epoch else plan.short_first
                most = plan.fixed_batches or None
                groups = dataset.batches(self.train, plan.frames, rng, short_first=short, most=most)
            for batch in groups:
                if step >= first:
                    yield batch
                step += 1
            epoch += 1


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=tuple(PLANS))
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--start", type=Path, help="begin with this checkpoint's weights")
    parser.add_argument("--steps", type=int, help="another number than planned")
    parser.add_argument("--peak", type=float, help="another learning rate than planned")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--float32", action="store_true", help="no bfloat16 in the products")
    parser.add_argument("--threads", type=int, help="of the processor; all by default")
    args = parser.parse_args()

    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    begin = base_stage if args.stage == "language" else nar_stage
    mixed = not args.float32
    stage, room = begin(args.stage, args.run, args.seed, device, mixed=mixed, start=args.start)
    train_set, development = (
        dataset.load(args.data, split, stage.tokenizer, *room) for split in ("train", "development")
    )
    plan = PLANS[args.stage]
    changed = {"steps": args.steps, "peak": args.peak}
    plan = replace(plan, **{name: value for name, value in changed.items() if value})
    if args.stage == "passes":
        train_set, development = joined(train_set, development, stage, room[0], plan, args.seed)
    print(f"{clock()} {args.stage}: {len(train_set)} utterances, {plan}", flush=True)
    train(stage, plan, Data(train_set, development), args.run / f"{args.stage}.pt", args.seed)


def joined(
    train_set: list[Example],
    development: list[Example],
    stage: Stage,
    characters: int,
    plan: Plan,
    seed: int,
) -> tuple[list[Example], list[Example]]:
    """As many passes as the plan can use, and some of each length to watch them with."""
    made = partial(as_example, tokenizer=stage.tokenizer, characters=characters)
    passes = Passes(train_set, random.Random(seed)).training(plan.fixed_batches * plan.frames)
    watched = Passes(development, random.Random(0))
    lengths = (watched.of_length(*length, WATCHED) for length in LENGTHS)
    return list(map(made, passes)), list(map(made, chain.from_iterable(lengths)))


Room = tuple[int, int, str]  # characters, frames of a token, and what stands before a text


def nar_stage(
    name: str, run: Path, seed: int, device: torch.device, *, mixed: bool, start: Path | None
) -> tuple[Stage, Room]:
    """A stage of the model that edits, at its beginning."""
    directory = _made(run, miniature.write_directory)
    model, config = miniature.untrained(directory, seed)
    if start:
        model.load_state_dict(load_model(start).state_dict())
    elif name in BEFORE:
        before = torch.load(run / f"{BEFORE[name]}.pt", map_location="cpu", weights_only=True)
        model.load_state_dict(before["model"])
    stage = STAGES[name](model.to(device), load_tokenizer(directory), device, mixed=mixed)
    return stage, (config.encoder.char_vocab, config.encoder.pooling_window, "")


def base_stage(
    _: str, run: Path, seed: int, device: torch.device, *, mixed: bool, start: Path | None
) -> tuple[Stage, Room]:
    """The stage of the autoregressive model, at its beginning."""
    if start:
        raise SystemExit("--start is for the model that edits: the other's encoder is its own")
    directory = _made(run, base.write_directory)
    model, config = base.untrained(directory, seed)
    tokenizer = load_tokenizer(directory)
    stage = LanguageStage(model.to(device), tokenizer, device, mixed=mixed, directory=directory)
    return stage, (config.encoder.char_vocab, config.projector.downsample, " ")


def _made(run: Path, write: Callable[[Path], None]) -> Path:
    """The run's checkpoint directory, written where it is not there yet."""
    directory = run / "model"
    if not (directory / "tokenizer.json").exists():
        write(directory)
    return directory


if __name__ == "__main__":
    main()
