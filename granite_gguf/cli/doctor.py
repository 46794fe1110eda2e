"""``granite-gguf doctor``: what is installed, what it can do, what would make it faster."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Collection
from dataclasses import asdict
from importlib.metadata import version

from rich.markup import escape
from rich.table import Table

from granite_gguf._version import __version__
from granite_gguf.cli.console import print_result, stdout
from granite_gguf.cli.options import AsJson
from granite_gguf.cuda.gpu import list_gpus
from granite_gguf.ggml.build import BuildInfo, build_info, unused_cpu_features
from granite_gguf.ggml.devices import default_threads
from granite_gguf.ggml.kernels import available_kernels, kernels_compiled, list_kernels
from granite_gguf.ggml.products import Products
from granite_gguf.ggml.types import GGMLType
from granite_gguf.sizes import megabytes

_PACKAGES = ("gguf", "numpy", "soundfile", "soxr", "tokenizers", "safetensors", "huggingface_hub")

_WITH_KERNELS = ("x86_64", "AMD64", "aarch64", "arm64")


def rebuild_command(build: BuildInfo, *flags: str) -> str:
    """The command that installs ggml-python again with some CMake flags."""
    return (
        f'CMAKE_ARGS="{" ".join(flags)}" pip install --force-reinstall '
        "--no-deps --no-cache-dir --no-binary ggml-python "
        f"ggml-python=={build.binding_version}"
    )


def advice(build: BuildInfo) -> list[tuple[str, str]]:
    """What is slow about a build, and the command that mends each."""
    found = []
    ours = bool(used_types())  # then ggml multiplies next to nothing
    if not build.has("OPENMP") and platform.system() == "Linux":
        found.append(
            ("ggml was built without OpenMP: starting its threads costs time in every operation",
             rebuild_command(build, "-DGGML_OPENMP=ON"))
        )  # fmt: skip
    unused = unused_cpu_features(build)
    if not ours and unused:
        found.append(
            (f"ggml was built for another processor: it leaves out {', '.join(unused)}",
             rebuild_command(build, "-DGGML_NATIVE=ON"))
        )  # fmt: skip
    if platform.machine() in _WITH_KERNELS and not kernels_compiled():
        found.append(
            ("granite-gguf was installed without its kernels, for want of a C compiler: "
             "models take two to four times as long",
             "pip install --force-reinstall --no-deps --no-cache-dir granite-gguf")
        )  # fmt: skip
    if shutil.which("nvidia-smi") and not list_gpus():
        found.append(
            ("there is an NVIDIA driver, and CuPy, by which our kernels reach a GPU, "
             "is not installed or is for another CUDA",
             "pip install 'granite-gguf[cuda]'")
        )  # fmt: skip
    if shutil.which("nvidia-smi") and "CUDA" not in build.features:
        found.append(
            ("ggml was built without CUDA, which autoregressive models need for a GPU",
             rebuild_command(build, "-DGGML_CUDA=ON"))
        )  # fmt: skip
    return found


# What convert and quantize write most.
_TYPES = (
    *(GGMLType.F32, GGMLType.F16, GGMLType.BF16),
    *(GGMLType.Q8_0, GGMLType.Q6_K, GGMLType.Q5_K, GGMLType.Q4_K),
)


def used_types() -> dict[str, list[str]]:
    """The types of weights that each kernel of ours multiplies here, by its name."""
    used: dict[str, list[str]] = {}
    if available_kernels():
        products = Products(1, exact=True)
        for kind in _TYPES:
            if own := products.kernel(kind):
                used.setdefault(own, []).append(kind.name)
    return used


def processor_facts(available: Collection[str]) -> str:
    """What is known of the kernels that a processor has, in a sentence."""
    if "amx-bf16" in available:
        return (
            "All files are multiplied in bfloat16 tiles; F32 and F16 ones need two products for "
            "each, which take longer."
        )
    if "avx512-bf16" in available:
        return (
            "Quantized files are the fastest, in products of 8 bits, then BF16 ones; F32 and F16 "
            "files take float32 products, the slowest."
        )
    if "avx2-int8" in available:
        return (
            "Quantized files are the fastest, in products of 8 bits. This processor has none of "
            "bfloat16: F32, F16 and BF16 files take float32 products, the slowest."
        )
    if "neon-fma" in available:
        return (
            "The NEON kernels were tested under an emulator alone: how fast they are on an arm64 "
            "processor was not measured. Compare them with --kernels ggml."
        )
    return (
        "There are no fast kernels of granite-gguf for this processor, and ggml multiplies: how "
        "that compares with other engines was not measured."
    )


def doctor(as_json: AsJson = False) -> None:
    """Report versions, ggml's kernels, devices, and what to improve."""
    build = build_info()
    versions = {
        "granite-gguf": __version__,
        "python": platform.python_version(),
        "ggml": build.ggml_version,
        "ggml-python": build.binding_version,
        **{name: version(name) for name in _PACKAGES},
    }
    remedies = advice(build)
    if as_json:
        report = {
            "versions": versions,
            "features": build.features,
            "kernels": {
                "compiled": kernels_compiled(),
                "available": available_kernels(),
                "used": used_types(),
                "facts": processor_facts(available_kernels()),
            },
            "devices": [asdict(device) for device in (*list_gpus(), *build.devices)],
            "threads": default_threads(),
            "advice": [{"problem": problem, "command": command} for problem, command in remedies],
        }
        print_result(json.dumps(report, indent=2))
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in versions.items():
        table.add_row(name, value)
    stdout.print(table)
    for backend, features in build.features.items():
        names = [name if value == "1" else f"{name}={value}" for name, value in features.items()]
        stdout.print(f"\n{backend} kernels: {escape(' '.join(names)) or 'none named'}")
    _print_kernels()
    stdout.print("\ndevices:")
    for device in (*list_gpus(), *build.devices):
        memory = f"{megabytes(device.free_bytes)} free of {megabytes(device.total_bytes)}"
        stdout.print(f"  {device.name} ({device.kind}): {escape(device.description)}, {memory}")
    stdout.print(f"  threads by default: {default_threads()}")
    for problem, command in remedies:
        stdout.print(f"\n[yellow]slow:[/] {escape(problem)}. Mend it with\n  {escape(command)}")
    if not remedies:
        stdout.print("\nThis build has all that is known to make it faster here.")


def _print_kernels() -> None:
    if not kernels_compiled():
        stdout.print("\nkernels of granite-gguf: none, for they were not compiled")
        return
    stdout.print("\nkernels of granite-gguf, the best first, as --kernels takes them:")
    used = used_types()
    table = Table(box=None, pad_edge=False, show_header=False)
    for info in list_kernels():
        here = ", ".join(used.get(info.name, ["-"]))
        table.add_row(f"  {info.name}", info.words, here if info.available else "not here")
    stdout.print(table)
    stdout.print(processor_facts(available_kernels()))
