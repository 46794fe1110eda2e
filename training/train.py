"""Train a miniature.

The one that edits, first its encoder, then the projector and the editor on top of it:

python -m training.train encoder DATA RUN
python -m training.train editor DATA RUN
python -m training.train passes DATA RUN [--start CHECKPOINT]

The last goes on with projector and editor in passes of up to 22 s, from RUN/editor.pt or from the
weights of a checkpoint's directory.

The autoregressive one, on top of the first one's encoder, as it is or as another run has it:

python -m training.train language DATA RUN [--encoder RUN] [--start CHECKPOINT]

Each stage keeps its state in RUN/<stage>.pt and goes on from there when it is run again.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from granite_gguf.reference import load_model, load_tokenizer
from training import base, dataset, miniature
from training.causal import LanguageStage
from training.dataset import Example, Spoken
from training.passes import LENGTHS, Passes, as_example, passes_of
from training.stages import EditorStage, EncoderStage, NarStage, Stage

EVERY = 25  # steps between lines of the log


@dataclass(frozen=True)
class Plan:
    """Length and pace of a stage."""

    steps: int
    peak: float  # learning rate
    frames: int  # of a batch
    warm_up: int = 300
    short_first: int = 0  # frames: the first epoch begins with utterances up to this length
    passes: bool = True  # most utterances joined, otherwise all by themselves
    check: int = 1000  # steps between evaluations, and between states
    minutes: float = 0  # instead of steps
    weight_decay: float = 0.01
    clip: float = 1.0

    def done(self, step: int, seconds: float) -> float:
        """How much of it is done, up to 1."""
        return min(seconds / 60 / self.minutes if self.minutes else step / self.steps, 1.0)

    def rate(self, step: int, done: float) -> float:
        """Linear warm-up, then half a cosine down to a hundredth."""
        fallen = 0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * done))
        return self.peak * fallen * min(1.0, (step + 1) / self.warm_up)


PLANS = {
    "encoder": Plan(steps=8000, peak=1.5e-3, frames=24_000, short_first=110),
    "editor": Plan(steps=3000, peak=1.5e-3, frames=16_000, warm_up=200, passes=False),
    "passes": Plan(steps=4000, peak=1e-3, frames=16_000, warm_up=100),
    "language": Plan(steps=8000, peak=1.5e-3, frames=8_000, short_first=130, check=3000),
}
STAGES: dict[str, type[NarStage]] = {
    "encoder": EncoderStage,
    "editor": EditorStage,
    "passes": EditorStage,
}
BEFORE = {"editor": "encoder", "passes": "editor"}  # the stages whose weights these begin with
WATCHED = 12  # passes of each length


def train(stage: Stage, plan: Plan, data: Data[Any], state: Path, seed: int) -> None:
    """Run the stage to its end, from the state file if there is one."""
    parameters = list(stage.parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=plan.peak, betas=(0.9, 0.98), weight_decay=plan.weight_decay
    )
    first, before = 0, 0.0
    if state.exists():
        saved = torch.load(state, map_location=stage.device, weights_only=True)
        stage.model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first, before = saved["step"], saved["seconds"]
    stage.begin()
    started, losses = time.monotonic(), []

    def seconds() -> float:
        return before + time.monotonic() - started

    for step, batch in enumerate(ahead(data.batches(plan, seed, first)), first):
        done = plan.done(step, seconds())
        if done == 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = plan.rate(step, done)
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
            print(f"{clock()} {step + 1:5d} {text} | {pace:.3f} s/step", flush=True)
            losses = []
        if (step + 1) % plan.check == 0:
            save(state, stage, optimizer, step + 1, seconds())
            watch(stage, data, step + 1)
    save(state, stage, optimizer, step, seconds())
    watch(stage, data, step)


Item = TypeVar("Item")


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Items without end, each made while the one before is in use."""
    found = next(items)
    with ThreadPoolExecutor(1) as pool:
        while True:
            following = pool.submit(next, items)
            yield found
            found = following.result()


def watch(stage: Stage, data: Data[Any], step: int) -> None:
    """Print what comes of development passes."""
    text = " ".join(f"{k} {v:.2%}" for k, v in stage.scores(data.development).items())
    print(f"{clock()} {step:5d} development: {text}", flush=True)


def save(
    path: Path, stage: Stage, optimizer: torch.optim.Optimizer, step: int, seconds: float
) -> None:
    """Replace the state file in one move, so that an interruption leaves a whole one."""
    part = path.with_suffix(".part")
    content = {"model": stage.model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({**content, "step": step, "seconds": seconds}, part)
    part.rename(path)


def clock() -> str:
    """Time of day."""
    return time.strftime("%H:%M:%S")


@dataclass(frozen=True)
class Data(Generic[Spoken]):
    """What a stage is trained on and watched with.

    Attributes:
        drawn: what an epoch consists of, by its random numbers.
        made: the example of one of these.
        development: examples to watch it with.
    """

    drawn: Callable[[random.Random], Sequence[Spoken]]
    made: Callable[[Spoken], Example]
    development: list[Example]

    def batches(self, plan: Plan, seed: int, first: int) -> Iterator[list[Example]]:
        """Batches without end, in an order that the seed decides, from step `first` on."""
        step = 0
        for epoch in count():
            rng = random.Random(f"{seed} {epoch}")
            short = 0 if epoch else plan.short_first
            for batch in dataset.batches(self.drawn(rng), plan.frames, rng, short_first=short):
                if step >= first:
                    yield [self.made(one) for one in batch]
                step += 1


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=tuple(PLANS))
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--start", type=Path, help="begin with this checkpoint's weights")
    parser.add_argument("--encoder", type=Path, help="the run whose encoder `language` stands on")
    parser.add_argument("--steps", type=int, help="another number than planned")
    parser.add_argument("--minutes", type=float, help="instead of steps")
    parser.add_argument("--frames", type=int, help="of a batch, other than planned")
    parser.add_argument("--peak", type=float, help="another learning rate than planned")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--float32", action="store_true", help="no bfloat16 in the products")
    parser.add_argument("--threads", type=int, help="of the processor; all by default")
    args = parser.parse_args()

    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    mixed = not args.float32
    stage, room = (
        base_stage(args.run, args.seed, device, mixed=mixed, start=args.start, encoder=args.encoder)
        if args.stage == "language"
        else nar_stage(args.stage, args.run, args.seed, device, mixed=mixed, start=args.start)
    )
    changed = {name: getattr(args, name) for name in ("steps", "minutes", "peak", "frames")}
    plan = replace(PLANS[args.stage], **{k: value for k, value in changed.items() if value})
    data = read(args.data, stage, room, plan)
    print(f"{clock()} {args.stage}: {plan}", flush=True)
    train(stage, plan, data, args.run / f"{args.stage}.pt", args.seed)


Room = tuple[int, int, str]  # characters, frames of a token, and what stands before a text


def read(directory: Path, stage: Stage, room: Room, plan: Plan) -> Data[Any]:
    """Utterances, or passes that are drawn anew for each epoch; and passes to watch it with."""
    characters, window, lead = room
    train_set, development = (
        dataset.load(directory, split, stage.tokenizer, characters, window, lead)
        for split in ("train", "development")
    )
    if not isinstance(stage, EncoderStage):
        train_set = [example for example in train_set if example.tokens]
    made = partial(as_example, tokenizer=stage.tokenizer, characters=characters, lead=lead)
    passes = Passes(development, random.Random(0))
    watched = [made(one) for length in LENGTHS for one in passes.of_length(*length, WATCHED)]
    print(f"{clock()} {len(train_set)} utterances", flush=True)
    if plan.passes:
        return Data(partial(passes_of, train_set), made, watched)
    return Data[Example](lambda _: train_set, lambda example: example, watched)


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
    run: Path,
    seed: int,
    device: torch.device,
    *,
    mixed: bool,
    start: Path | None = None,
    encoder: Path | None = None,
) -> tuple[Stage, Room]:
    """The stage of the autoregressive model, at its beginning."""
    directory = _made(run, base.write_directory)
    heard = None
    if encoder:
        first = torch.load(encoder / "encoder.pt", map_location="cpu", weights_only=True)["model"]
        heard = {
            k.removeprefix("encoder."): t for k, t in first.items() if k.startswith("encoder.")
        }
    model, config = base.untrained(directory, seed, heard)
    if start:
        base.start_from(start, model)
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
