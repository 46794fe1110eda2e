"""Files wherever they lie: on this machine, or behind an address such as ``s3://bucket/a.wav``.

    s3, gs    → pyarrow's own file systems
    hf, http… → fsspec, with the package that it names for each

Needs the extra ``ray``.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from textwrap import shorten
from typing import Any

from granite_gguf.errors import GraniteError, InputError, MissingExtraError

_MARK = "://"
_OF_PYARROW = ("s3", "gs")
_ANONYMOUS = "anonymous@"  # before a public bucket's name: ask without credentials
_REASON = 500  # characters of it: clients tell what they did first, and why it failed last
_PATIENCE = 10  # seconds; by default a quarter of an hour goes by where credentials are missing


def import_extra(name: str) -> Any:
    """A module of the extra.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{error.name} is not installed, and work on many machines needs it: "
            "pip install 'granite-gguf[ray]'"
        ) from error


_fsspec = import_extra("fsspec.core")
_arrow = import_extra("fsspec.implementations.arrow")
_pyarrow_fs = import_extra("pyarrow.fs")


def is_address(name: str) -> bool:
    """Whether it has a scheme, and is not the name of a file here."""
    return _MARK in name


def absolute(name: str, folder: str = "") -> str:
    """A name that means the same in every process: an address, or an absolute path.

    Args:
        name: an address or a path.
        folder: what a relative path is relative to, a folder or the address of one; by default
            the current folder.
    """
    if is_address(name) or os.path.isabs(name):  # noqa: PTH117
        return name
    if is_address(folder):
        return f"{folder.rstrip('/')}/{name}"
    return os.path.abspath(os.path.join(folder, name))  # noqa: PTH100, PTH118


def file_system(name: str) -> tuple[Any, str]:
    """The fsspec file system that has a file, and the file's path in it.

    Raises:
        InputError: there is none for such an address, or it cannot be reached.
    """
    with reaching(name):
        scheme, _, rest = name.partition(_MARK)
        if is_address(name) and scheme in _OF_PYARROW:
            authority, slash, path = rest.partition("/")
            system, bucket = _bucket(scheme, authority)
            return system, f"{bucket}{slash}{path}"
        system, path = _fsspec.url_to_fs(name)
        return system, path


@contextmanager
def reaching(name: str) -> Iterator[None]:
    """Turn what the libraries raise for a place into an error that names it.

    Raises:
        InputError: the place cannot be used.
    """
    try:
        yield
    except GraniteError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{name}: there is no such file or folder") from error
    except Exception as error:  # of whichever client library the address needs
        why = shorten(str(error), _REASON, placeholder=" ...") or type(error).__name__
        raise InputError(f"{name}: cannot be used: {why}") from error


def address(name: str, path: str) -> str:
    """The whole name of a path in the file system of another name."""
    scheme, mark, rest = name.rpartition(_MARK)
    whom = _ANONYMOUS if rest.startswith(_ANONYMOUS) else ""
    return f"{scheme}{mark}{whom}{path.removeprefix(scheme + mark)}" if mark else path


@lru_cache(maxsize=64)
def _bucket(scheme: str, authority: str) -> tuple[Any, str]:
    """The file system of a bucket, and the bucket's name."""
    uri = f"{scheme}{_MARK}{authority}"
    if scheme == "gs":
        uri += f"?retry_limit_seconds={_PATIENCE}"
    # The first question to a bucket is where it lies, and it is asked once.
    system, bucket = _pyarrow_fs.FileSystem.from_uri(uri)
    return _arrow.ArrowFSWrapper(system), bucket
