"""Chooses the stages to judge, and sees that a reference is one of the model's."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from granite_gguf.errors import ComparisonError, InputError
from granite_gguf.parity.thresholds import min_agreement, min_cosine
from granite_gguf.recorded.outputs import Names, Precision, Recorded
from granite_gguf.recorded.stages import Parity, StageSpec
from granite_gguf.storage.model_file import ModelFile

LAYERS = "encoder_layers"  # stands for every captured layer where stages are chosen


def choose_stages(
    table: Sequence[StageSpec], recorded: Recorded, wanted: Collection[str] | None
) -> list[StageSpec]:
    """The stages to judge: those wanted, or all that the reference has.

    Raises:
        InputError: there is no stage of a wanted name.
        ComparisonError: the reference lacks what a stage needs.
    """
    stages = list(table)
    if wanted is not None:
        names = expand(table, wanted)
        stages = [stage for stage in stages if stage.name in names]
    missing = {
        stage.name: [name for name in stage.needs if not recorded.has(name)] for stage in table
    }
    if wanted is None:
        stages = [stage for stage in stages if not (stage.optional and missing[stage.name])]
    lacking = [stage.name for stage in stages if missing[stage.name]]
    if lacking:
        outputs = dict.fromkeys(name for stage in lacking for name in missing[stage])
        have = [stage.name for stage in table if not missing[stage.name]]
        raise ComparisonError(
            f"{recorded.source}: has no {', '.join(outputs)}, which {', '.join(lacking)} need; "
            f"choose with --stages of what it has: {', '.join(have) or 'nothing'}"
        )
    return stages


def expand(table: Sequence[StageSpec], names: Iterable[str]) -> set[str]:
    """Stage names, with `LAYERS` standing for each captured layer.

    Raises:
        InputError: there is no such stage.
    """
    known = [stage.name for stage in table]
    layers = {name for name in known if name.startswith(Names.ENCODER_LAYER)}
    found: set[str] = set()
    for name in names:
        if name != LAYERS and name not in known:
            raise InputError(f"there is no stage {name!r}; there are {', '.join(known)}, {LAYERS}")
        found |= layers if name == LAYERS else {name}
    return found


def resolve_thresholds(
    table: Sequence[StageSpec],
    stages: Sequence[StageSpec],
    given: Mapping[str, float],
    both: tuple[Precision, Precision],
) -> dict[str, float]:
    """A threshold for each stage: the one given, or its default between two sides' precisions.

    Raises:
        InputError: one is given for a stage that is not judged, or is out of range.
    """
    limits = {
        stage.name: (min_agreement if stage.exact else min_cosine)(stage.parts, both)
        for stage in stages
    }
    for name, value in given.items():
        if not -1.0 <= value <= 1.0:
            raise InputError(f"the threshold of {name} is {value}, expected -1 to 1")
        for stage in expand(table, [name]):
            if stage not in limits:
                raise InputError(f"a threshold is given for {stage}, which is not judged here")
            limits[stage] = value
    return limits


def check_architecture(file: ModelFile[Any], recorded: Recorded) -> None:
    """See that the reference is of the architecture of a file, whose stages may be called alike.

    Raises:
        ComparisonError: it is of another.
    """
    name = file.format.name
    if recorded.architecture not in ("", name):
        raise ComparisonError(
            f"{recorded.source}: is of a model of {recorded.architecture}, {file.path} is of "
            f"{name}, which has other stages: only models of one architecture can be compared"
        )


def check_fits(file: ModelFile[Any], parity: Parity[Any], recorded: Recorded) -> None:
    """See that the reference is of a model like a file's.

    Raises:
        ComparisonError: an output's width or number of rows, or an id, cannot be this model's.
    """
    problems = [
        f"{name} is {recorded.arrays[name].shape[1]} wide, the model's {width}"
        for name, width in parity.widths(file.hparams).items()
        if name in recorded.arrays and recorded.arrays[name].shape[1] != width
    ]
    vocabulary = file.hparams.language.vocab_size
    problems += [
        f"{name} reach from {ids.min()} to {ids.max()}, the model's vocabulary has {vocabulary}"
        for name, ids in recorded.ids.items()
        if len(ids) and not 0 <= ids.min() <= ids.max() < vocabulary
    ]
    problems.extend(parity.problems(file.hparams, recorded))
    if problems:
        raise ComparisonError(
            f"{recorded.source}: is of another model or damaged: {'; '.join(problems)}"
        )
