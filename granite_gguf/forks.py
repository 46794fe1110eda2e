"""Tells what holds threads or locks that it is in a forked child process.

Of all threads only the one that forks lives on in the child. A pool waits there for threads that
are gone, and a lock that another thread held is never released.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Forked(Protocol):
    """What has to begin anew in a child."""

    def after_fork(self) -> None:
        """Called in the child, before anything else: forget what stayed behind; raise nothing."""


_known: WeakSet[Forked] = WeakSet()


def tell_after_fork(forked: Forked) -> None:
    """Call its ``after_fork`` in every child, as long as it lives."""
    _known.add(forked)


def _in_child() -> None:
    for forked in list(_known):
        forked.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
