"""PyTorch's own batched forward on a GPU: seconds by stage, RTFx, memory, and the floor beneath.

python -m benchmarks.gpu_pytorch CHECKPOINT --batch 1,16,48,128 [--seconds 10 | --lengths 3-30]
    [--tokens-per-second 3] [--modes eager,graphs,compile,compile+graphs] [--profile 48]
    [--out FILE.jsonl]

The yardstick for the runtime on the same card. A pass goes from features in host memory to edited
ids in host memory: weights and activations in bfloat16, attention by scaled_dot_product_attention
(never its unfused form on a GPU), recordings padded to the longest of their pass, arg-max on the
GPU, the hypothesis collapsed on the host while the projector runs. Log-mel features are computed
on the GPU, all recordings of a pass at once, and timed apart. `--lengths` draws clips, sorts them
by length and cuts them into passes. Of `--modes`, compile means torch.compile of the layers, graphs
that each stage is recorded as a CUDA graph. `--tokens-per-second` puts that many random tokens into
the slots, as speech has, whatever random weights hear.

Only `granite_gguf.reference` is imported, no ggml. Prints Markdown; the file gets a line of JSON
for each batch size.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

if __name__ == "__main__":  # the package loads ggml, which its reference does not need
    sys.modules["granite_gguf"] = ModuleType("granite_gguf")
    sys.modules["granite_gguf"].__path__ = [
        str(Path(__file__).resolve().parent.parent / "granite_gguf")
    ]

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.batched.floor import Clock, flops, rates, timed
from benchmarks.batched.model import FORMS, Batched, log_mels
from benchmarks.batched.passes import Ids, Runner
from granite_gguf.reference import load_model
from granite_gguf.reference.dtypes import TORCH_DTYPES
from granite_gguf.reference.encoder import posterior_pool

ATTENTION = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
ORDERS = ("flash>efficient", "cudnn>flash>efficient")
MODES = ("eager", "graphs", "compile", "compile+graphs")
RATE = 16_000
STAGES = ("encoder", "bpe head", "projector", "hypothesis", "editor", "text head", "text")


@dataclass
class Pass:
    """Recordings that go through the model together."""

    counts: list[int]  # samples
    features: Tensor  # (B, T, 160), on the host
    feature_seconds: float  # from samples in host memory to features on the device
    forced: list[list[int]] | None

    @property
    def frames(self) -> list[int]:
        return [n // 320 for n in self.counts]


def lengths_of(args: argparse.Namespace, batch: int) -> list[list[int]]:
    """Samples of the recordings of each pass."""
    if args.lengths is None:
        return [[round(args.seconds * RATE)] * batch]
    low, high = map(float, args.lengths.split("-"))
    drawn = np.random.default_rng(args.seed).uniform(low, high, args.clips or 4 * batch)
    ordered = sorted(round(seconds * RATE) for seconds in drawn)
    return [ordered[at : at + batch] for at in range(0, len(ordered), batch)]


def prepare(args: argparse.Namespace, counts: list[int], runner: Runner, seed: int = 0) -> Pass:
    """Features of noise, and tokens for the slots."""
    config, generator = runner.config, torch.Generator().manual_seed(args.seed + seed)
    samples = 0.1 * torch.randn(len(counts), max(counts), generator=generator)
    samples *= torch.arange(max(counts)) < torch.tensor(counts)[:, None]
    if runner.model.device.type == "cuda":
        samples = samples.pin_memory()
    seconds = []
    for _ in range(3):
        clock = Clock(runner.model.device)
        clock.mark("start")
        there = runner.upload(samples)
        features = log_mels(there, runner.upload(torch.tensor(counts)), config.front_end)
        clock.mark("features")
        seconds.append(clock.seconds()["features"])
    forced = None
    if args.tokens_per_second is not None:
        rng = np.random.default_rng(args.seed + seed)
        most = min(config.semantics.slot_id, config.editor.vocab_size)
        forced = [
            rng.integers(0, most, round(args.tokens_per_second * n / RATE)).tolist() for n in counts
        ]
    host = features.cpu()
    host = host.pin_memory() if runner.model.device.type == "cuda" else host
    return Pass(counts, host, median(seconds), forced)


def fastest(device: torch.device, ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of each way that the device has, the least first; what fails says so."""
    found = {}
    for name, way in ways.items():
        try:
            found[name] = timed(device, way)
        except RuntimeError as error:  # of what no kernel of the device takes
            print(f"{name}: {str(error).splitlines()[0]}", flush=True)
    if not found:
        raise RuntimeError(f"none of {', '.join(ways)} runs on {device}")
    return dict(sorted(found.items(), key=lambda item: item[1]))


def forms_of(runner: Runner, features: Tensor, compiled: bool) -> dict[str, float]:
    """Seconds of the depthwise convolution's forms on features of this shape."""
    model, width = runner.model, runner.config.encoder.d_model
    x = torch.randn(*features.shape[:2], width, device=model.device, dtype=model.dtype)
    block = model.blocks[0]
    function = torch.compile(block.convolve, dynamic=False) if compiled else block.convolve

    def convolve(form: str) -> Tensor:
        block.form = form
        return function(x, None)

    return fastest(model.device, {form: partial(convolve, form) for form in FORMS})


def orders_of(runner: Runner, features: Tensor) -> dict[str, float]:
    """Seconds of a block's and of an editor layer's attention, by which kernels come first."""
    model, (batch, length, _) = runner.model, features.shape
    size = min(length, runner.config.encoder.context_size)
    width, rows = runner.config.editor.d_model, length // 5 + 2 * length // 17
    place = {"device": model.device, "dtype": model.dtype}
    frames = torch.randn(batch, size, runner.config.encoder.d_model, **place)
    hidden = torch.randn(batch, rows, width, **place)
    cos, sin = model.turns(rows)

    def attend(order: str) -> None:
        with attention(order, model.device):
            model.blocks[0].attend(frames, None)
            model.layers[0].attend(hidden, cos, sin, None)

    return fastest(model.device, {order: partial(attend, order) for order in ORDERS})


def attention(order: str, device: torch.device) -> AbstractContextManager[Any]:
    """Only fused kernels on a GPU, the first named first."""
    if device.type != "cuda":
        return nullcontext()
    return sdpa_kernel([ATTENTION[name] for name in order.split(">")], set_priority=True)


def compile_layers(model: Batched, mode: str) -> None:
    """Compile what repeats, once for all layers, and the small stages whole."""
    torch._dynamo.config.recompile_limit = 64
    options: dict[str, Any] = {"dynamic": False}  # the code that fits each shape best
    options |= {} if mode == "default" else {"mode": mode}
    for layer in (*model.blocks, *model.layers):
        layer.compile(**options)
    model.feed_back = torch.compile(model.feed_back, **options)
    model.project = torch.compile(model.project, **options)
    model.pool = torch.compile(posterior_pool, **options)


def check(args: argparse.Namespace, model: Batched, mode: str) -> None:
    """Print how near the editor's final states come to those of the reference, one by one.

    Each batch runs twice with other features, so that what is played from a record shows, too.
    """
    reference = load_model(args.checkpoint, model.dtype).to(model.device)
    runner = Runner(model, graphs="graphs" in mode)
    for seconds in ((3.1, 7.77, 12.0), (7.77, 7.77)):
        for seed in range(2):
            one = prepare(args, [round(RATE * some) for some in seconds], runner, seed)
            with attention(args.attention or ORDERS[0], model.device):
                found = runner.run(one.features, one.frames, Clock(model.device), one.forced)
            cosines = []
            rows = found.rows.split([len(text) for text in found.texts])
            for mel, n, text, row in zip(one.features, one.frames, found.texts, rows, strict=True):
                features = mel[None, :n].to(model.device, model.dtype)
                encoded = reference.encoder(features)
                audio = reference.audio_tokens(reference.projector(encoded.output), n)
                ids = torch.tensor([text], device=model.device)
                inputs = torch.cat([audio, reference.editor.embed_tokens(ids)], dim=1)
                expected = reference.editor.hidden(inputs)[0, audio.shape[1] :]
                cosines.append(F.cosine_similarity(row.float(), expected.float()))
            least, mean = torch.cat(cosines).min(), torch.cat(cosines).mean()
            print(f"{mode}, {seconds} s, 1 - cosine to the reference: mean {1 - mean:.1e}, "
                  f"most {1 - least:.1e}", flush=True)  # fmt: skip
            if not mean > 0.99:
                raise SystemExit("the batched forward is not the reference's")


def measure(args: argparse.Namespace, model: Batched, mode: str, batch: int) -> dict[str, Any]:
    """Medians over the repeats, summed over the passes."""
    started, device = time.perf_counter(), model.device
    cuda, compiled = device.type == "cuda", "compile" in mode
    if compiled:
        torch.compiler.reset()  # each batch size gets code for its own shapes
    runner = Runner(model, graphs="graphs" in mode)
    passes = [prepare(args, counts, runner) for counts in lengths_of(args, batch)]
    some = passes[len(passes) // 2].features
    forms = {args.conv: 0.0} if args.conv else forms_of(runner, some, compiled)
    for block in model.blocks:
        block.form = next(iter(forms))
    orders = {args.attention: 0.0} if args.attention else orders_of(runner, some)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    stages: dict[str, float] = dict.fromkeys(STAGES, 0.0)
    work, total, frames, texts = dict.fromkeys(STAGES, 0.0), 0.0, [], []
    with attention(next(iter(orders)), device):
        for one in passes:
            whole, by_stage, ids = repeat(args, runner, one)
            total += whole
            frames += one.frames
            texts += [len(text) for text in ids.texts]
            for name in STAGES:
                stages[name] += by_stage[name]
        peak = torch.cuda.max_memory_allocated() if cuda else 0
        reserved = torch.cuda.memory_reserved() if cuda else 0
        if args.profile == batch:
            profile(runner, passes[-1])
    work |= flops(runner.config, frames, texts)
    rows = sum(frames) // runner.config.projector.downsample + sum(texts)
    speeds, copy = rates(model, sum(frames) // len(passes), rows // len(passes), args.cube)
    audio = sum(sum(one.counts) for one in passes) / RATE
    found = {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "torch": torch.__version__,
        "dtype": args.dtype,
        "mode": mode,
        "compile_mode": args.compile_mode,
        "convolution": forms,
        "attention": orders,
        "batch": batch,
        "passes": len(passes),
        "audio_seconds": audio,
        "frames": sum(frames),
        "padded_frames": sum(one.features.shape[0] * one.features.shape[1] for one in passes),
        "editor_rows": rows,
        "text_rows": sum(texts),
        "seconds": total,
        "rtfx": audio / total,
        "stages": stages,
        "feature_seconds": sum(one.feature_seconds for one in passes),
        "measuring_seconds": time.perf_counter() - started,
        "peak_bytes": peak,
        "reserved_bytes": reserved,
        "flops": work,
        "rates": speeds,
        "copy_bytes_per_second": copy,
        "floor_seconds": sum(work.values()) / max(speeds.values()),
    }
    print(f"{mode}, {batch}: {1e3 * total:.2f} ms, RTFx {audio / total:.0f}, "
          f"measured in {found['measuring_seconds']:.0f} s", flush=True)  # fmt: skip
    return found


def repeat(
    args: argparse.Namespace, runner: Runner, one: Pass
) -> tuple[float, dict[str, float], Ids]:
    """Median seconds of a pass, whole and by stage, and its ids."""
    whole, stages = [], []
    for turn in range(args.warm_ups + args.repeats):
        clock, begun = Clock(runner.model.device), time.perf_counter()
        ids = runner.run(one.features, one.frames, clock, one.forced)
        spent = time.perf_counter() - begun  # the ids have arrived: nothing is left to wait for
        if turn >= args.warm_ups:
            whole.append(spent)
            stages.append(clock.seconds())
    return median(whole), {name: median(some[name] for some in stages) for name in STAGES}, ids


def profile(runner: Runner, one: Pass, rows: int = 25) -> None:
    """Print the kernels of a pass that take longest."""
    cuda = runner.model.device.type == "cuda"
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kinds.CPU, *([kinds.CUDA] if cuda else [])]) as found:
        runner.run(one.features, one.frames, Clock(runner.model.device), one.forced)
    wanted = torch.autograd.DeviceType.CUDA if cuda else torch.autograd.DeviceType.CPU
    events = [event for event in found.key_averages() if event.device_type == wanted]
    spent = {
        id(event): event.self_device_time_total if cuda else event.self_cpu_time_total
        for event in events
    }
    whole = sum(spent.values())
    print(f"\n{len(one.counts)} recordings, one pass: {whole / 1e3:.2f} ms in kernels\n")
    print("| ms | share | calls | kernel |\n|---:|---:|---:|---|")
    for event in sorted(events, key=lambda event: -spent[id(event)])[:rows]:
        took = spent[id(event)]
        print(f"| {took / 1e3:.3f} | {took / whole:.1%} | {event.count} | `{event.key[:110]}` |")
    print(flush=True)


def report(args: argparse.Namespace, found: Sequence[dict[str, Any]]) -> None:
    """Tables: seconds by stage, work and floor, measured rates."""
    first = found[0]
    print(f"\n{first['device']}, PyTorch {first['torch']}, {args.dtype}, median of {args.repeats}, "
          f"features from host memory to ids in host memory; {args.checkpoint}")  # fmt: skip
    names = " | ".join(f"{name} ms" for name in STAGES)
    print(f"\n| mode | batch | audio s | {names} | total ms | RTFx | peak GB | features ms "
          "| RTFx with features |")  # fmt: skip
    print("|---|---:|---:|" + "---:|" * (len(STAGES) + 5))
    for one in found:
        cells = " | ".join(f"{1e3 * one['stages'][name]:.2f}" for name in STAGES)
        print(f"| {one['mode']} | {one['batch']} | {one['audio_seconds']:.0f} | {cells} "
              f"| {1e3 * one['seconds']:.2f} | {one['rtfx']:.0f} | {one['peak_bytes'] / 1e9:.2f} "
              f"| {1e3 * one['feature_seconds']:.2f} "
              f"| {one['audio_seconds'] / (one['seconds'] + one['feature_seconds']):.0f} |"
        )  # fmt: skip
    counted = [name for name in STAGES if found[0]["flops"][name]]
    names = " | ".join(f"{name} TFLOP/s" for name in counted)
    print(f"\n| mode | batch | padding | TFLOP | floor ms | floor / total | {names} "
          "| convolution | attention |")  # fmt: skip
    print("|---|---:|---:|---:|---:|---:|" + "---:|" * len(counted) + "---|---|")
    for one in found:
        work = one["flops"]
        cells = " | ".join(f"{work[name] / one['stages'][name] / 1e12:.0f}" for name in counted)
        padding = 1 - one["frames"] / one["padded_frames"]
        print(f"| {one['mode']} | {one['batch']} | {padding:.1%} | {sum(work.values()) / 1e12:.2f} "
              f"| {1e3 * one['floor_seconds']:.2f} | {one['floor_seconds'] / one['seconds']:.2f} "
              f"| {cells} | {next(iter(one['convolution']))} "
              f"| {next(iter(one['attention']))} |")  # fmt: skip
    names = list(found[0]["rates"])
    print(f"\n| batch | {' | '.join(f'{name} TFLOP/s' for name in names)} | copy GB/s |")
    print("|---:|" + "---:|" * (len(names) + 1))
    for one in found:
        cells = " | ".join(f"{one['rates'][name] / 1e12:.0f}" for name in names)
        print(f"| {one['batch']} | {cells} | {one['copy_bytes_per_second'] / 1e9:.0f} |")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--batch", default="1,16,48,128", help="recordings of a pass, with commas")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each recording")
    parser.add_argument("--lengths", metavar="LOW-HIGH", help="seconds, drawn evenly, then sorted")
    parser.add_argument("--clips", type=int, help="with --lengths; default: four passes")
    parser.add_argument("--tokens-per-second", type=float, metavar="N")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warm-ups", type=int, default=2)
    parser.add_argument("--dtype", choices=tuple(TORCH_DTYPES), default="bf16")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--modes", default=MODES[0], help=f"with commas, of {', '.join(MODES)}")
    parser.add_argument("--compile", dest="modes", action="store_const", const="eager,compile")
    compilers = ("default", "max-autotune-no-cudagraphs")
    parser.add_argument("--compile-mode", choices=compilers, default=compilers[0])
    parser.add_argument("--attention", choices=ORDERS, help="default: the fastest")
    parser.add_argument("--conv", choices=FORMS, help="default: the fastest at each batch size")
    parser.add_argument("--head-rows", type=int, default=4096, help="rows of logits at a time")
    parser.add_argument("--cube", type=int, default=8192, help="side of the product for the floor")
    parser.add_argument("--check", action="store_true", help="compare with the reference, too")
    parser.add_argument("--profile", type=int, metavar="BATCH")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    for mode in set(args.modes.split(",")) - set(MODES):
        parser.error(f"--modes: {mode!r} is none of {', '.join(MODES)}")
    return args


@torch.inference_mode()
def main() -> None:
    args = parse()
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    model = Batched(load_model(args.checkpoint, TORCH_DTYPES[args.dtype]), args.head_rows)
    model = model.to(args.device).eval()
    found, failed = [], []
    # What is compiled stays so.
    for mode in sorted(args.modes.split(","), key=MODES.index):
        if "compile" in mode:
            compile_layers(model, args.compile_mode)
        steps = [partial(check, args, model, mode)] if args.check else []
        steps += [partial(measure, args, model, mode, int(n)) for n in args.batch.split(",")]
        for step in steps:
            try:
                figures = step()
            except (RuntimeError, torch._dynamo.exc.TorchDynamoException):
                # The others are wanted all the same: time on such a machine is dear.
                traceback.print_exc()
                failed.append(f"{mode}: {step.func.__name__}{step.args[3:]}")
                continue
            if figures is None:
                continue
            found.append(figures)
            if args.out:
                with args.out.open("a", encoding="utf-8") as file:
                    print(json.dumps(figures), file=file)
    if found:
        report(args, found)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
