"""What files of transcribe.cpp's dialects have in common, whose own keys begin with ``stt.``."""
