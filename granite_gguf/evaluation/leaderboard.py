"""What the Open ASR Leaderboard does besides counting words.

Rules and fields are those of the repository ``huggingface/open_asr_leaderboard`` at :data:`AS_OF`
(``normalizer/data_utils.py`` and ``normalizer/eval_utils.py``). Its own normaliser is not here:
docs/evaluation.md tells what differs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from granite_gguf.errors import InputError

AS_OF = "2026-08"
"""The month in which the leaderboard had these rules: its changes make another version of them."""

_IGNORED = "ignore time segment in scoring"
_NAME = re.compile(r"MODEL_(.+)_DATASET_(.+)")

Fields = dict[str, Any]


def to_be_ignored(expected: str) -> bool:
    """Whether a normalised reference says that its recording is not to be scored."""
    return expected in ("", _IGNORED)


def join_compounds(expected: list[str], found: list[str]) -> tuple[list[str], list[str]]:
    """Make one word, on both sides, of each stretch that differs in nothing but its spaces.

    For languages other than English. Unlike merging while counting, it lowers the number of words.

    >>> join_compounds("der haus meister kam".split(), "der hausmeister kam".split())
    (['der', 'hausmeister', 'kam'], ['der', 'hausmeister', 'kam'])
    """
    joined: tuple[list[str], list[str]] = ([], [])
    matcher = SequenceMatcher(None, expected, found)
    for _, first, last, begin, end in matcher.get_opcodes():
        sides = expected[first:last], found[begin:end]
        whole = "".join(sides[0])
        spaced_alike = sides[0] == sides[1] or whole != "".join(sides[1])
        for words, side in zip(joined, sides, strict=True):
            words.extend(side if spaced_alike else [whole])
    return joined


def join_sessions(rows: Iterable[tuple[str, Fields]]) -> list[tuple[str, Fields]]:
    """Chunks of a session as one row, which is what its reference belongs to.

    Args:
        rows: places for messages, and the lines of a manifest. Those with ``parent_id`` are chunks,
            numbered by ``chunk_index`` from 0; each has the text of the whole session.

    Raises:
        InputError: chunks of a session are missing, or not numbered.
    """
    joined: list[tuple[str, Fields]] = []
    sessions: dict[str, dict[int, Fields]] = {}
    for place, fields in rows:
        session = fields.get("parent_id")
        if session is None:
            joined.append((place, fields))
            continue
        index = fields.get("chunk_index")
        if not isinstance(index, int):
            raise InputError(f"{place}: field 'chunk_index' is {index!r}, expected a number")
        if session not in sessions:
            sessions[session] = {}
            joined.append((place, {"audio_filepath": session, "chunks": sessions[session]}))
        sessions[session][index] = fields
    return [
        (place, _session(place, fields) if "chunks" in fields else fields)
        for place, fields in joined
    ]


def _session(place: str, session: Fields) -> Fields:
    chunks = [session["chunks"][index] for index in sorted(session["chunks"])]
    if set(session["chunks"]) != set(range(len(chunks))):
        raise InputError(
            f"{place}: session {session['audio_filepath']!r} has the chunks "
            f"{sorted(session['chunks'])}, expected all from 0"
        )
    texts = [(chunk.get("pred_text") or "").strip() for chunk in chunks]
    return {
        **chunks[0],
        "audio_filepath": session["audio_filepath"],
        "pred_text": " ".join(filter(None, texts)),
        **{name: sum_known([chunk.get(name) for chunk in chunks]) for name in ("duration", "time")},
    }


def sum_known(values: Sequence[float | None]) -> float | None:
    """A sum, of which nothing is told where a part is not known."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def file_name(model: str, dataset: str) -> str:
    """The name under which the leaderboard looks for a model's results on a set.

    >>> file_name("ibm/granite", "ls-clean")
    'MODEL_ibm-granite_DATASET_ls-clean.jsonl'
    """
    return f"MODEL_{model}_DATASET_{dataset}.jsonl".replace("/", "-")


def names_of(path: Path) -> tuple[str, str]:
    """The model and the set that a file of results is of, by its name and folder.

    >>> names_of(Path("MODEL_ibm-granite_DATASET_ls-clean.jsonl"))
    ('ibm-granite', 'ls-clean')
    >>> names_of(Path("granite/ls-clean.jsonl"))
    ('granite', 'ls-clean')
    """
    found = _NAME.fullmatch(path.stem)
    if found is not None:
        return found[1], found[2]
    return path.absolute().parent.name, path.stem
