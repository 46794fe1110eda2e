"""How the grammar made a sentence, found again from its words, and the sentence told otherwise.

    "turn on the lamp ..." → command(switch(on) device(lamp) ...) → a book's words for every node

A book has a template for each of the grammar's alternatives; an alternative without one stands for
itself. In a template

    <thing>            is what the next child of that name is told as
    <colour~thing>     the same, inflected to agree with that noun
    <el thing>         the noun behind the article that goes with it
    <está/están~thing> the word of several that goes with it
    <adjective~f>      inflected to agree with a word of the template itself

A template that ends in `:f` says what others have to agree with: the place of its word in
`AGREEMENTS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from training.grammar import GRAMMAR

# Gender and number of nouns, and the person of a subject: which of several words goes with them.
AGREEMENTS = {"m": 0, "f": 1, "mp": 2, "fp": 3, "i": 0, "we": 1, "they": 2, "you": 3}
_PART = re.compile(r"<([^>]+)>|\S+")


@dataclass(frozen=True)
class Tree:
    """A name of the grammar, which of its alternatives was taken, and what its names became."""

    name: str
    alternative: str
    children: tuple[Tree, ...]


def sentences(text: str) -> list[Tree]:
    """The sentences that a text of the grammar consists of, as few as possible.

    Raises:
        ValueError: the grammar makes no such text.
    """
    words = tuple(text.split())
    found = _sentences(words, 0)
    if found is None:
        raise ValueError(f"the grammar does not make {text!r}")
    return found


def _sentences(words: tuple[str, ...], start: int) -> list[Tree] | None:
    if start == len(words):
        return []
    whole = sorted(_trees(words, start, "sentence"), key=lambda found: -found[1])
    for tree, end in whole:
        rest = _sentences(words, end)
        if rest is not None:
            return [tree, *rest]
    return None


def _trees(words: tuple[str, ...], start: int, name: str) -> Iterator[tuple[Tree, int]]:
    """The trees of a name that begin at a word, and where each ends."""
    for alternative, parts in _alternatives(name):
        for children, end in _sequences(words, start, parts):
            yield Tree(name, alternative, children), end


def _sequences(
    words: tuple[str, ...], start: int, parts: Sequence[str]
) -> Iterator[tuple[tuple[Tree, ...], int]]:
    if not parts:
        yield (), start
        return
    first, rest = parts[0], parts[1:]
    if not first.startswith("<"):
        if start < len(words) and words[start] == first:
            yield from _sequences(words, start + 1, rest)
        return
    for tree, middle in _trees(words, start, first[1:-1]):
        for children, end in _sequences(words, middle, rest):
            yield (tree, *children), end


@cache
def _alternatives(name: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """A name's different alternatives as text and in parts, without pronunciations."""
    written = [tuple(word.partition("~")[0] for word in words) for words in GRAMMAR[name]]
    return tuple((" ".join(parts), parts) for parts in dict.fromkeys(written))


@dataclass(frozen=True)
class Told:
    """The words of a node, and what others have to agree with."""

    words: str
    agreement: str | None


@dataclass(frozen=True)
class Book:
    """How everything in the grammar is told in one way.

    Attributes:
        templates: of alternatives; of "name/alternative" where names differ.
        finished: what the words of a node by that name become in the end.
        inflected: the words of a node by that name, to agree with something.
        articles: what `<el thing>` may become, by `AGREEMENTS`.
    """

    templates: Mapping[str, str]
    finished: Callable[[str, str], str]
    inflected: Callable[[str, str, str], str] = lambda _name, words, _agreement: words
    articles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def template(self, tree: Tree) -> str:
        """That of a node."""
        own = f"{tree.name}/{tree.alternative}"
        return self.templates.get(own, self.templates.get(tree.alternative, tree.alternative))

    def tell(self, tree: Tree) -> Told:
        """A node and all below it."""
        template, _, agreement = self.template(tree).partition(" :")
        children: dict[str, list[Told]] = {}
        for child in tree.children:
            children.setdefault(child.name, []).append(self.tell(child))
        told = {name: iter(found) for name, found in children.items()}
        words = []
        for part in _PART.finditer(template):
            if part[1] is None:
                words.append(part[0])
                continue
            what, _, noun = part[1].partition("~")
            article, _, name = what.rpartition(" ")
            if article:
                noun = name
            wanted = children[noun][0].agreement if noun in children else noun
            if "/" in what:
                words.append(_fitting(what.split("/"), wanted))
                continue
            if article:
                words.append(_fitting(self.articles[article], wanted))
            child = next(told[name])
            plain = article or not noun
            words.append(child.words if plain else self.inflected(name, child.words, wanted or ""))
        return Told(self.finished(tree.name, " ".join(filter(None, words))), agreement or None)


def _fitting(choices: Sequence[str], agreement: str | None) -> str:
    return choices[AGREEMENTS[agreement or ""] % len(choices)]
