"""Addresses of files: what of them means a bucket, and a path in it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("pyarrow.fs")
pytest.importorskip("fsspec")

from granite_gguf import places
from granite_gguf.errors import InputError
from granite_gguf.places import address, file_system


@pytest.mark.parametrize("name", ["gs://anonymous@bucket/clips/a.flac", "gs://bucket/clips/a.flac"])
def test_a_name_comes_back_from_its_path(name: str) -> None:
    """Who asks without credentials is no part of the path, and of every file's name."""
    system, path = file_system(name)
    assert path == "bucket/clips/a.flac"
    assert address(name, path) == name
    assert address(name, "bucket/clips/b.flac") == name.replace("a.flac", "b.flac")
    assert file_system(name)[0] is system


def test_a_bucket_without_credentials_is_not_asked_for_a_quarter_of_an_hour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That is what Google's client does by itself, without a word."""
    asked: list[str] = []

    def from_uri(uri: str) -> tuple[object, str]:
        asked.append(uri)
        raise OSError("no credentials")

    monkeypatch.setattr(
        places, "_pyarrow_fs", SimpleNamespace(FileSystem=SimpleNamespace(from_uri=from_uri))
    )
    with pytest.raises(InputError, match="gs://of-nobody/a: cannot be used: no credentials"):
        file_system("gs://of-nobody/a")
    assert asked == ["gs://of-nobody?retry_limit_seconds=10"]
