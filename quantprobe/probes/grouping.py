"""What the groups of a task are: its kinds of question, the sources of its items, or neither.

`quantprobe.stats.design` says what follows from each. Nothing here loads numpy: the command line lists the words.
"""

from __future__ import annotations

from quantprobe.errors import InputError

STRATA = "strata"
CLUSTERS = "clusters"
UNGROUPED = "none"
GROUPINGS = (STRATA, CLUSTERS, UNGROUPED)


def check_grouping(grouping: str) -> None:
    """Raises `InputError` for a word that is none of `GROUPINGS`."""
    if grouping not in GROUPINGS:
        raise InputError(f"groups are {', '.join(GROUPINGS)}; {grouping!r} was given")
