"""Imports ggml so that its threads do not spin for long while they wait for one another."""

import os

# GNU OpenMP reads this when it is loaded. Its threads meet after every operation and, left to its
# default, spin for milliseconds before they sleep. Where another process has a core, the thread
# that is waited for then waits for that core although one is only spun on: a pass takes ten times
# as long. Fifty microseconds are as fast as the default on an idle machine.
_VARIABLE, _SPINS = "GOMP_SPINCOUNT", "1000"

if _VARIABLE in os.environ or "OMP_WAIT_POLICY" in os.environ:
    import ggml
else:
    os.environ[_VARIABLE] = _SPINS
    try:
        import ggml  # noqa: F401
    finally:
        del os.environ[_VARIABLE]
