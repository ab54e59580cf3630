"""Whose tokens are scored in a file of chats. Nothing here loads numpy: the command line lists the words."""

from __future__ import annotations

ASSISTANT = "assistant"
ALL = "all"
SCORES = (ASSISTANT, ALL)
