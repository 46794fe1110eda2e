"""The prompt's ids, by the checkpoint's own chat template and tokenizer.

instruction -> messages -> chat template -> text with as many audio tokens as rows -> ids (P)
"""

from __future__ import annotations

from pathlib import Path

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from granite_gguf.reference.config import CheckpointError
from granite_gguf.reference.sections import read_json
from granite_gguf.reference.speech.config import SpeechConfig, SpeechLayout

AUDIO = "<|audio|>"

# What every model of the family was asked in training; 4.1-2b knows others besides.
INSTRUCTION = "can you transcribe the speech into a written format?"

# Of the cards, dates included.
_SYSTEM = (
    "Knowledge Cutoff Date: April 2024.\nToday's Date: {}.\n"
    "You are Granite, developed by IBM. You are a helpful AI assistant"
)
_DATES: dict[SpeechLayout, str] = {"plus": "December 19, 2024", "lora": "April 9, 2025"}


def prompt_ids(
    directory: Path, tokenizer: Tokenizer, config: SpeechConfig, instruction: str, audio_rows: int
) -> list[int]:
    """Ids of a prompt with so many audio tokens in it."""
    text = prompt_text(directory, config.layout, instruction)
    if text.count(AUDIO) != 1:
        raise CheckpointError(
            f"{directory}: the chat template makes {text.count(AUDIO)} {AUDIO} of one in {text!r}"
        )
    ids = tokenizer.encode(text.replace(AUDIO, AUDIO * audio_rows), add_special_tokens=False).ids
    if ids.count(config.language.audio_token) != audio_rows:
        raise CheckpointError(
            f"{directory}: the tokenizer does not make {AUDIO} the audio token "
            f"{config.language.audio_token}"
        )
    return list(ids)


def prompt_text(directory: Path, layout: SpeechLayout, instruction: str) -> str:
    """Text of a prompt, with one audio token."""
    # As transformers renders them.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    try:
        return environment.from_string(_template(directory)).render(
            messages=messages(layout, instruction),
            add_generation_prompt=True,
            eos_token="<|end_of_text|>",
        )
    except TemplateError as error:
        raise CheckpointError(f"{directory}: the chat template fails: {error}") from error


def messages(layout: SpeechLayout, instruction: str) -> list[dict[str, str]]:
    """What is said before the answer, with one audio token, as chat templates take it."""
    space = " " if layout == "plus" else ""
    said = [{"role": "user", "content": f"{AUDIO}{space}{instruction}"}]
    if layout in _DATES:
        said.insert(0, {"role": "system", "content": _SYSTEM.format(_DATES[layout])})
    return said


def _template(directory: Path) -> str:
    path = directory / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (directory / name).is_file():
            found = read_json(directory / name).get("chat_template")
            if isinstance(found, str):
                return found
    raise CheckpointError(f"{directory}: has no chat template, expected chat_template.jinja")
