"""Without its packages the reference says what to install."""

from __future__ import annotations

import importlib
import sys

import pytest


@pytest.mark.parametrize("absent", ["torch", "tokenizers", "safetensors", "jinja2"])
def test_missing_package_names_the_extra(absent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("granite_gguf.reference")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(ImportError, match=r"pip install 'granite-gguf\[reference\]'"):
        importlib.import_module("granite_gguf.reference")
