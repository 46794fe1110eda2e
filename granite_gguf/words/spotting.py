"""Where terms are heard that the best path of a CTC head has missed.

    log-posteriors (T, labels), terms spelt in labels → a trie of them → stretches of frames

After the word spotter of Andrusenko and others, "Fast Context-Biasing for CTC and Transducer ASR
models with CTC-based Word Spotter" (2024, arXiv 2406.07096): a term may begin at any frame, and all
terms are followed at once through a trie of their labels with blanks between. What a path costs is
by how much it is less probable than the best one of the same frames, so that 0 is what is heard
anyway; a term is found where that is within what it may cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from granite_gguf.arrays import FloatArray


@dataclass(frozen=True)
class Spot:
    """A term that is heard.

    Attributes:
        term: its number.
        first: the frame of its first label.
        end: the one behind that of its last label.
        cost: by how much it is less probable than what is heard, as a logarithm, at least 0.
    """

    term: int
    first: int
    end: int
    cost: float


class Trie:
    """Terms that share their beginnings; each stands between two edges, as between spaces.

    Args:
        terms: the labels of each, at least one.
        edge: the label before and behind each of them.
    """

    def __init__(self, terms: Sequence[Sequence[int]], edge: int) -> None:
        children: dict[tuple[int, int], int] = {}
        labels, parents = [edge, edge], [0, 0]  # the first is no place, only what precedes one
        ends = []
        for term in terms:
            node = 1
            for label in (*term, edge):
                if (node, label) not in children:
                    children[node, label] = len(labels)
                    labels.append(label)
                    parents.append(node)
                node = children[node, label]
            ends.append(node)
        self._labels, self._parents = np.array(labels), np.array(parents)
        # A label that repeats the one before it needs a blank between.
        self._repeats = self._labels == self._labels[self._parents]
        self._first = self._parents == 1
        self._is_end = np.zeros(len(labels), bool)
        self._is_end[ends] = True
        self._terms: dict[int, list[int]] = {}
        for number, node in enumerate(ends):
            self._terms.setdefault(node, []).append(number)

    def spot(
        self, posteriors: FloatArray, blank: int, most: npt.NDArray[np.floating]
    ) -> list[Spot]:
        """The terms that are heard, in order, none beside another in the same frames.

        Args:
            posteriors: log-probabilities ``(T, labels)``.
            blank: the label of nothing.
            most: ``(terms,)``, what each may cost.
        """
        found = self._all(posteriors, blank, most)
        # What is furthest within its cost comes first; of the same, the longer one.
        found.sort(key=lambda spot: (spot.cost - most[spot.term], spot.first - spot.end))
        kept: list[Spot] = []
        for spot in found:
            if all(spot.end <= other.first or spot.first >= other.end for other in kept):
                kept.append(spot)
        return sorted(kept, key=lambda spot: spot.first)

    def _all(
        self, posteriors: FloatArray, blank: int, most: npt.NDArray[np.floating]
    ) -> list[Spot]:
        relative = posteriors - posteriors.max(axis=1, keepdims=True)
        count, floor = len(self._labels), -float(most.max(initial=0.0))
        emitted = np.full(count, -np.inf, np.float32)  # the best path that ends in a node's label
        paused = emitted.copy()  # or in a blank behind it
        # Frames of the first label of such a path, and of the last one before its end.
        begun, begun_paused, left, left_paused = np.zeros((4, count), np.int32)
        found: list[Spot] = []
        for frame, row in enumerate(relative):
            paused[0] = 0.0  # a term may begin here
            alive = np.maximum(emitted, paused) >= floor
            at = np.flatnonzero(alive | alive[self._parents])
            before = self._parents[at]
            after_label, after_pause = emitted[before], paused[before]
            after_label[self._repeats[at]] = -np.inf
            straight = after_label > after_pause
            enter = np.where(straight, after_label, after_pause)
            begun_enter = np.where(straight, begun[before], begun_paused[before])
            begun_enter[self._first[at]] = frame
            left_enter = np.where(straight, frame - 1, left_paused[before])
            own, own_paused = emitted[at], paused[at]
            stays, pauses = own >= enter, own > own_paused
            begun_paused[at] = np.where(pauses, begun[at], begun_paused[at])
            left_paused[at] = np.where(pauses, frame - 1, left_paused[at])
            paused[at] = np.where(pauses, own, own_paused) + row[blank]
            emitted[at] = np.where(stays, own, enter) + row[self._labels[at]]
            begun[at] = np.where(stays, begun[at], begun_enter)
            left[at] = np.where(stays, left[at], left_enter)
            emitted[0] = -np.inf
            for node in at[self._is_end[at] & (emitted[at] >= floor)]:
                cost = -float(emitted[node])
                found += [
                    Spot(term, int(begun[node]), int(left[node]) + 1, cost)
                    for term in self._terms[node]
                    if cost <= most[term]
                ]
        return found
