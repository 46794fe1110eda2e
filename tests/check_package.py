"""What is installed, and its types: run by `make check`, for it takes half a minute."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    tracked = ("pyproject.toml", "README.md", "LICENSE", "granite_gguf", "converters", "quantize")
    source.mkdir()
    for name in tracked:
        subprocess.run(["cp", "-r", str(ROOT / name), str(source / name)], check=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--wheel-dir", str(folder), str(source)],
        check=True,
    )  # fmt: skip
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_installs_one_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"granite_gguf"}
    for folder, package in (
        ("granite_gguf", "granite_gguf"),
        ("converters", "granite_gguf/converters"),
        ("quantize", "granite_gguf/quantize"),
    ):
        for path in (ROOT / folder).rglob("*.py"):
            assert f"{package}/{path.relative_to(ROOT / folder).as_posix()}" in names
    assert "granite_gguf/py.typed" in names
    if sys.platform == "linux" and shutil.which("cc"):
        native = [n for n in names if n.startswith("granite_gguf/ggml/native/")]
        assert ".so" in {Path(name).suffix for name in native}


def test_types(wheel: Path, tmp_path: Path) -> None:
    """mypy cannot follow the folders of the source tree, so the installed form is checked."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"),
         "-p", "granite_gguf", "--exclude", "/reference/",
         "--cache-dir", str(ROOT / ".mypy_cache")],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout
