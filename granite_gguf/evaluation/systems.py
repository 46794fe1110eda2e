"""Several models on several sets: what each is called, where its results go, what can be paired."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from granite_gguf.errors import InputError, OutputError
from granite_gguf.evaluation.figures import Evaluation
from granite_gguf.evaluation.leaderboard import file_name
from granite_gguf.evaluation.run import rescore
from granite_gguf.evaluation.scoring import Scorer

Systems = Mapping[str, Sequence[Evaluation]]
"""Of each model, by a name that no other has, its evaluations of sets."""


def unique_names(paths: Sequence[Path]) -> list[str]:
    """Of each path its last part where no other ends in it, or else the whole.

    >>> unique_names([Path("a/m.gguf"), Path("b/m.gguf"), Path("n.gguf")])
    ['a/m.gguf', 'b/m.gguf', 'n.gguf']
    """
    ends = Counter(path.name for path in paths)
    return [path.name if ends[path.name] == 1 else str(path) for path in paths]


def results_files(
    output: Path | None, models: Sequence[str], sets: Sequence[str]
) -> dict[tuple[str, str], Path | None]:
    """Where the results of each model on each set are kept, by their names.

    Args:
        output: nothing; a file, for one model on one set; or a folder, which is made, and in which
            the files are named as the leaderboard names them.
        models: their names.
        sets: their names.

    Raises:
        InputError: two models or two sets have the same name.
        OutputError: there are several results, and ``output`` is a file or cannot be made a folder.
    """
    _check_unique(models, "-m names a model")
    _check_unique(sets, "manifests need names of their own: there is")
    pairs = [(model, dataset) for model in models for dataset in sets]
    if output is None or (len(pairs) == 1 and not output.is_dir()):
        return dict.fromkeys(pairs, output)
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output}: is a file, expected a folder for {len(pairs)} results")
    try:
        output.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output}: cannot be made a folder: {error.strerror}") from error
    return {
        (model, dataset): output / file_name(model.removesuffix(".gguf"), dataset)
        for model, dataset in pairs
    }


def rescored(paths: Sequence[Path], scorer: Scorer, language: str) -> Systems:
    """Results that were written before, by model.

    Args:
        paths: files, and folders of ``.jsonl`` files.
        scorer: counts the errors.
        language: of recordings for which a file does not say.

    Raises:
        InputError: a file cannot be used, a folder has none, or two are of a model on a set.
    """
    systems: dict[str, dict[str, Evaluation]] = {}
    for path in paths:
        files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        if not files:
            raise InputError(f"{path}: has no results, which end in .jsonl")
        for file in files:
            one = rescore(file, scorer, language)
            sets = systems.setdefault(one.model, {})
            if one.dataset in sets:
                raise InputError(
                    f"{file}: has results of {one.model} on {one.dataset}, as another file has; "
                    "name them MODEL_name_DATASET_name.jsonl, or put those of a model in a folder "
                    "of its name"
                )
            sets[one.dataset] = one
    return {model: list(sets.values()) for model, sets in systems.items()}


def aligned(systems: Systems) -> Systems:
    """Models with the same sets, and in them the same recordings, all in the first one's order.

    Raises:
        InputError: the sets, the recordings or their texts are not the same.
    """
    name, first = next(iter(systems.items()))
    found = {}
    for other, sets in systems.items():
        by_name = {one.dataset: one for one in sets}
        if by_name.keys() != {one.dataset for one in first}:
            raise InputError(
                f"{name} has results on {', '.join(sorted(one.dataset for one in first))}, and "
                f"{other} on {', '.join(sorted(by_name))}: expected the same sets"
            )
        found[other] = [_in_order_of(one, by_name[one.dataset]) for one in first]
    return found


def _in_order_of(first: Evaluation, other: Evaluation) -> Evaluation:
    rows = {row.item.name: row for row in other.rows}
    texts = [{row.item.name: row.item.text for row in one.rows} for one in (first, other)]
    if texts[0] != texts[1]:
        raise InputError(
            f"{first.dataset}: {first.model} and {other.model} have results of other recordings or "
            "against other texts, and cannot be set side by side"
        )
    in_order = [replace(rows[row.item.name], item=row.item) for row in first.rows]
    return replace(other, rows=in_order)


def _check_unique(names: Sequence[str], problem: str) -> None:
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise InputError(f"{problem} {name} {count} times")
