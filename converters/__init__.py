"""Converters into our GGUF files."""

from granite_gguf.converters.checkpoint import Layout
from granite_gguf.converters.convert import Conversion, convert
from granite_gguf.converters.dtypes import OutType
from granite_gguf.converters.gguf_source import convert_gguf

__all__ = ["Conversion", "Layout", "OutType", "convert", "convert_gguf"]
