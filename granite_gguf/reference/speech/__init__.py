"""The autoregressive model in plain PyTorch, made of the same blocks as the one that edits.

from granite_gguf.reference.speech.pipeline import SpeechReference
stages = SpeechReference("granite-speech-4.1-2b").run(audio)
"""
