"""Python that tests hand to other processes as text imports only what there is."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent


def sources(path: Path) -> Iterator[str]:
    """The strings of a file that are Python and import this package."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        text = node.value if isinstance(node, ast.Constant) else None
        if not isinstance(text, str) or "import" not in text or "granite_gguf" not in text:
            continue
        try:
            ast.parse(text)
        except SyntaxError:  # prose, or a template
            continue
        yield text


FILES = [path for path in sorted(TESTS.rglob("*.py")) if any(sources(path))]


def test_some_are_found() -> None:
    assert {"test_interruption.py", "test_cli.py"} <= {path.name for path in FILES}


def import_if_installed(name: str) -> object | None:
    """A module, or None where it needs PyTorch, without which the suite runs as well."""
    try:
        return importlib.import_module(name)
    except ImportError:
        needs = name.startswith(("granite_gguf.reference", "torch", "transformers"))
        if needs and find_spec("torch") is None:
            return None
        raise


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_imports_exist(path: Path) -> None:
    for source in sources(path):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("granite_gguf"):
                module = import_if_installed(node.module or "")
                for alias in node.names:
                    if module is not None and not hasattr(module, alias.name):
                        import_if_installed(f"{node.module}.{alias.name}")
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    import_if_installed(alias.name)
