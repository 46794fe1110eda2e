"""Converters into the ``granite_nle`` GGUF format."""

from granite_gguf.converters.convert import Conversion, convert
from granite_gguf.converters.dtypes import OutType
from granite_gguf.converters.gguf_source import convert_gguf
from granite_gguf.converters.nar.layouts import Layout

__all__ = ["Conversion", "Layout", "OutType", "convert", "convert_gguf"]
