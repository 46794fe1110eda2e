"""The stages that `diff` judges: what each needs of the reference, and what it runs through."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from granite_gguf.errors import ComparisonError, InputError
from granite_gguf.parity.recorded import Names, Recorded, layer_names
from granite_gguf.parity.thresholds import Precision, min_agreement, min_cosine
from granite_gguf.spec.nar import HParams

HYPOTHESIS = "hypothesis"
TOP1 = "editing_logits_top1"
TRANSCRIBE = "transcribe"
LAYERS = "encoder_layers"  # stands for every captured layer where stages are chosen


@dataclass(frozen=True)
class StageSpec:
    """One row of the table.

    Attributes:
        name: the stage.
        needs: the reference's outputs it starts from and is compared with.
        parts: the parts of the model it runs through, whose types decide its threshold.
        exact: whether ids or a text are compared, not rows of numbers.
        optional: left out where the reference does not have it.
    """

    name: str
    needs: tuple[str, ...]
    parts: tuple[str, ...]
    exact: bool = False
    optional: bool = False

    def threshold(self, both: tuple[Precision, Precision]) -> float:
        """The default threshold between two sides of these precisions."""
        return min_agreement(self.parts, both) if self.exact else min_cosine(self.parts, both)


def all_stages(h: HParams) -> list[StageSpec]:
    """Every stage of a model, in the order of the data."""
    encoder, head = ("encoder",), ("encoder", "hypothesis")
    editor = (Names.TEXT_IDS, Names.AUDIO_EMBS, Names.EDITING_LOGITS)
    projector = (Names.ENCODER_OUTPUT, Names.PROJECTOR_OUTPUT)
    return [
        StageSpec(Names.MEL, (Names.MEL,), ()),
        *(
            StageSpec(name, (Names.MEL, name), encoder, optional=True)
            for name in layer_names(h)
        ),
        StageSpec(Names.ENCODER_OUTPUT, (Names.MEL, Names.ENCODER_OUTPUT), encoder),
        StageSpec(Names.ENCODER_LOGITS, (Names.MEL, Names.ENCODER_LOGITS), encoder),
        StageSpec(Names.BPE_LOGITS, (Names.MEL, Names.BPE_LOGITS), head[1:], optional=True),
        StageSpec(HYPOTHESIS, (Names.MEL, Names.CTC_TEXT), head, exact=True),
        StageSpec(Names.PROJECTOR_OUTPUT, projector, ("projector",)),
        StageSpec(Names.AUDIO_EMBS, (*projector, Names.AUDIO_EMBS), (), optional=True),
        StageSpec(Names.EDITING_LOGITS, editor, ("editor",)),
        StageSpec(TOP1, editor, ("editor",), exact=True),
        StageSpec(
            TRANSCRIBE, (Names.FINAL_TEXT,), (*head, "projector", "editor"), exact=True
        ),
    ]  # fmt: skip


def choose_stages(
    h: HParams, recorded: Recorded, wanted: Collection[str] | None
) -> list[StageSpec]:
    """The stages to judge: those wanted, or all that the reference has.

    Raises:
        InputError: there is no stage of a wanted name.
        ComparisonError: the reference lacks what a stage needs.
    """
    stages = all_stages(h)
    if wanted is not None:
        names = expand(h, wanted)
        stages = [stage for stage in stages if stage.name in names]
    missing = {stage.name: _missing(h, recorded, stage) for stage in stages}
    if wanted is None:
        stages = [stage for stage in stages if not (stage.optional and missing[stage.name])]
    lacking = [stage.name for stage in stages if missing[stage.name]]
    if lacking:
        outputs = dict.fromkeys(name for stage in lacking for name in missing[stage])
        have = [stage.name for stage in all_stages(h) if not _missing(h, recorded, stage)]
        raise ComparisonError(
            f"{recorded.source}: has no {', '.join(outputs)}, which {', '.join(lacking)} need; "
            f"choose with --stages of what it has: {', '.join(have) or 'nothing'}"
        )
    return stages


def expand(h: HParams, names: Iterable[str]) -> set[str]:
    """Stage names, with `LAYERS` standing for each captured layer.

    Raises:
        InputError: there is no such stage.
    """
    known = [stage.name for stage in all_stages(h)]
    found: set[str] = set()
    for name in names:
        if name != LAYERS and name not in known:
            raise InputError(f"there is no stage {name!r}; there are {', '.join(known)}, {LAYERS}")
        found |= set(layer_names(h)) if name == LAYERS else {name}
    return found


def resolve_thresholds(
    h: HParams,
    stages: list[StageSpec],
    given: Mapping[str, float],
    both: tuple[Precision, Precision],
) -> dict[str, float]:
    """A threshold for each stage: the one given, or its default.

    Raises:
        InputError: one is given for a stage that is not judged, or is out of range.
    """
    limits = {stage.name: stage.threshold(both) for stage in stages}
    for name, value in given.items():
        if not -1.0 <= value <= 1.0:
            raise InputError(f"the threshold of {name} is {value}, expected -1 to 1")
        for stage in expand(h, [name]):
            if stage not in limits:
                raise InputError(f"a threshold is given for {stage}, which is not judged here")
            limits[stage] = value
    return limits


def check_dimensions(h: HParams, recorded: Recorded) -> None:
    """See that the reference is of a model of these dimensions.

    Raises:
        ComparisonError: an output's width, or an id, cannot be this model's.
    """
    e, p, d = h.encoder, h.projector, h.editor
    widths = {
        Names.MEL: e.input_dim,
        Names.ENCODER_OUTPUT: p.num_encoder_layers * p.encoder_dim,
        Names.ENCODER_FINAL: e.d_model,
        Names.ENCODER_LOGITS: e.ctc_vocab,
        Names.BPE_LOGITS: h.hypothesis.bpe_vocab,
        Names.PROJECTOR_OUTPUT: p.llm_dim,
        Names.AUDIO_EMBS: d.d_model,
        Names.EDITING_LOGITS: d.vocab_size,
        **dict.fromkeys(layer_names(h), e.d_model),
    }
    problems = [
        f"{name} is {recorded.arrays[name].shape[1]} wide, the model's {width}"
        for name, width in widths.items()
        if name in recorded.arrays and recorded.arrays[name].shape[1] != width
    ]
    ids = recorded.text_ids
    if ids is not None and len(ids) and not 0 <= ids.min() <= ids.max() < d.vocab_size:
        problems.append(
            f"{Names.TEXT_IDS} reach from {ids.min()} to {ids.max()}, the model's vocabulary has "
            f"{d.vocab_size}"
        )
    problems.extend(_row_problems(recorded))
    if problems:
        raise ComparisonError(
            f"{recorded.source}: is of another model or damaged: {'; '.join(problems)}"
        )


def _row_problems(recorded: Recorded) -> list[str]:
    """Outputs of the reference that should have as many rows as one another, and have not."""
    rows = {name: len(array) for name, array in recorded.arrays.items()}
    if recorded.text_ids is not None:
        rows[Names.TEXT_IDS] = len(recorded.text_ids)
    same = ((Names.ENCODER_FINAL, Names.BLANK_PROB), (Names.EDITING_LOGITS, Names.TEXT_IDS))
    return [
        f"{a} has {rows[a]} rows, {b} {rows[b]}"
        for a, b in same
        if a in rows and b in rows and rows[a] != rows[b]
    ]


def _missing(h: HParams, recorded: Recorded, stage: StageSpec) -> list[str]:
    return [
        name
        for name in stage.needs
        if not recorded.has(name)
        and not (
            name == Names.AUDIO_EMBS
            and stage.name != Names.AUDIO_EMBS
            and recorded.audio_tokens(h) is not None
        )
    ]
