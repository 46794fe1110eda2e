"""``python -m granite_gguf`` is the command line."""

from granite_gguf.cli import main

main()
