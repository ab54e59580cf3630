"""Chats as a text probe: every conversation is a window of its own, and the assistant's tokens are scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from quantprobe.arrays import BoolArray, Int32Array, Int64Array
from quantprobe.errors import InputError
from quantprobe.probes.chat import ChatTemplate
from quantprobe.probes.conversations import Conversation
from quantprobe.probes.scores import ALL, ASSISTANT, SCORES
from quantprobe.probes.text import Cut, TextProbe, ragged_probe
from quantprobe.probes.turns import RenderedChat, Turn, render_chat

_BLANK = b" \t\r\n"


class Vocabulary(Protocol):
    """What of a model's tokenizer is needed here."""

    @property
    def bos(self) -> int | None:
        """The token that begins every text, None if none is added."""

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> Int32Array: ...

    def piece_bytes(self, token: int) -> bytes:
        """The text of a token, special tokens by their names."""

    def is_control(self, token: int) -> bool: ...

    def ends_generation(self, token: int) -> bool:
        """Whether a model that says this token has said all of its turn."""


@dataclass(frozen=True)
class TokenizedChat:
    """A conversation as tokens."""

    tokens: Int32Array
    scored: BoolArray
    """`[n_tokens]`: tokens that count."""
    ends: tuple[int, ...]
    """Where it may be cut: the number of tokens up to and with each turn of the assistant's."""

    def cut(self, n_ctx: int) -> tuple[TokenizedChat | None, int]:
        """What fits into a window, without what follows the last scored token, and the number of turns cut off."""
        kept = [end for end in self.ends if end <= n_ctx]
        n_cut = len(self.ends) - len(kept)
        n = len(self.tokens) if len(self.tokens) <= n_ctx else max(kept, default=0)
        last = np.flatnonzero(self.scored[:n])
        if len(last) == 0:
            return None, n_cut
        n = int(last[-1]) + 1
        return TokenizedChat(self.tokens[:n], self.scored[:n], tuple(kept)), n_cut


def chat_probe(
    name: str,
    conversations: Sequence[Conversation],
    template: ChatTemplate,
    vocabulary: Vocabulary,
    n_ctx: int,
    n_chunks: int | None = None,
    score: str = ASSISTANT,
) -> TextProbe:
    """The windows of a file of chats. Cut are turns at the end of conversations longer than `n_ctx` tokens.

    A conversation is cut only behind a turn of the assistant's; without one that ends within the window, or without any
    scored token, it is left out. At most `n_chunks` windows are taken (None: all). With `score` `all` every token but
    the first counts.

    Raises `InputError` where nothing is left, or where the assistant's tokens cannot be told apart.
    """
    if score not in SCORES:
        raise InputError(f"--score is one of {', '.join(SCORES)}; {score!r} was given")
    kept: list[tuple[TokenizedChat, str]] = []
    n_read = n_shortened = n_turns = n_left_out = longest = 0
    for conversation in conversations:
        if n_chunks is not None and len(kept) == n_chunks:
            break
        n_read += 1
        whole = _located(name, conversation, template, vocabulary, score)
        window, n_cut = whole.cut(n_ctx)
        longest = max(longest, len(whole.tokens))
        if window is None:
            n_left_out += 1
            continue
        n_shortened += n_cut > 0
        n_turns += n_cut
        kept.append((window, conversation.category))
    counts = Cut(n_read, n_shortened, n_turns, n_left_out, longest)
    if not kept:
        raise InputError(_nothing_left(name, counts, n_ctx))
    return ragged_probe(
        name,
        [window.tokens for window, _ in kept],
        # the row at a position predicts the token behind it
        [np.append(window.scored[1:], False) for window, _ in kept],
        [category for _, category in kept],
        score,
        counts,
    )


def cut_words(cut: Cut, n_ctx: int) -> str:
    """What was cut, for people; empty where nothing was."""
    parts = []
    if cut.n_shortened:
        turns = f"{cut.n_turns:,} turn{'s' * (cut.n_turns != 1)} of the assistant's"
        parts.append(f"{cut.n_shortened:,} lost {turns} at their end")
    if cut.n_left_out:
        parts.append(f"{cut.n_left_out:,} are left out, as no turn of the assistant's ends within {n_ctx:,} tokens")
    if not parts:
        return ""
    return f"of {cut.n_read:,} conversations {' and '.join(parts)} (the longest has {cut.longest:,} tokens)"


def _nothing_left(name: str, counts: Cut, n_ctx: int) -> str:
    if counts.longest <= n_ctx:
        return f"the chats {name!r} hold no turn of the assistant's to score; give --score all to score every token"
    return (
        f"none of the {counts.n_read} conversations of {name!r} has a turn of the assistant's that ends "
        f"within {n_ctx} tokens (the longest conversation has {counts.longest}); use a larger --ctx-size"
    )


def _located(
    name: str, conversation: Conversation, template: ChatTemplate, vocabulary: Vocabulary, score: str
) -> TokenizedChat:
    try:
        return tokenize_chat(render_chat(template, conversation, vocabulary.bos is not None), vocabulary, score)
    except InputError as error:
        advice = "; --score all needs no turns" if score == ASSISTANT else ""
        raise InputError(f"the chats {name!r}, line {conversation.line}: {error}{advice}") from error


def tokenize_chat(chat: RenderedChat, vocabulary: Vocabulary, score: str = ASSISTANT) -> TokenizedChat:
    """The tokens of a conversation and which are scored.

    Scored are those that hold a part of what the assistant says, and the token that ends its turn. Raises `InputError`
    where the assistant's tokens cannot be told apart.
    """
    tokens = vocabulary.tokenize(chat.text, add_special=True, parse_special=True)
    scored = np.zeros(len(tokens), np.bool_)
    ends: list[int] = []
    if score == ALL:
        scored[1:] = True
        ends = _ends_by_prefix(chat, tokens, vocabulary)
        return TokenizedChat(tokens, scored, tuple(ends))
    spans = token_spans(chat.text, tokens, vocabulary)
    for first, last in _token_turns(chat, chat.turns(), tokens, spans, vocabulary):
        scored[first:last] = True
        ends.append(last)
    scored[:1] = False  # nothing predicts the first token
    return TokenizedChat(tokens, scored, tuple(ends))


def _ends_by_prefix(chat: RenderedChat, tokens: Int32Array, vocabulary: Vocabulary) -> list[int]:
    """Token counts of the conversation up to each turn of the assistant's, where the template writes it the same."""
    found = []
    for n, message in enumerate(chat.messages, start=1):
        if message["role"] != ASSISTANT:
            continue
        try:
            text = chat.render(chat.messages[:n], False)
        except InputError:
            continue
        part = vocabulary.tokenize(text, add_special=True, parse_special=True)
        if len(part) <= len(tokens) and np.array_equal(part, tokens[: len(part)]):
            found.append(len(part))
    return found


def token_spans(text: str, tokens: Int32Array, vocabulary: Vocabulary) -> Int64Array:
    """The bytes of the UTF-8 text that each token stands for: begin and end, `[n_tokens, 2]` int64.

    A BOS that the tokenizer adds stands for none. Tokenizers put a space before a word, and drop white space beside
    special tokens; anything else that they change is an `InputError`.
    """
    data = text.encode("utf-8")
    spans = np.zeros((len(tokens), 2), np.int64)
    at = 0
    for i, token in enumerate(tokens.tolist()):
        if i == 0 and token == vocabulary.bos:
            continue
        found = _find(data, at, vocabulary.piece_bytes(token))
        if found is None:
            raise InputError(
                f"the tokenizer changes the text (token {i}, {vocabulary.piece_bytes(token)[:20]!r}, stands where the "
                f"text has {data[at : at + 20]!r}), so that the assistant's tokens cannot be told apart"
            )
        spans[i] = found
        at = found[1]
    return spans


def _find(data: bytes, at: int, piece: bytes) -> tuple[int, int] | None:
    after = at
    while after < len(data) and data[after] in _BLANK:
        after += 1
    for begin in (at, after):
        for text in (piece, piece.removeprefix(b" ")):
            if data.startswith(text, begin):
                return begin, begin + len(text)
    return None


def _token_turns(
    chat: RenderedChat, turns: Sequence[Turn], tokens: Int32Array, spans: Int64Array, vocabulary: Vocabulary
) -> Iterator[tuple[int, int]]:
    """First and behind the last token of each turn, with the token that ends it."""
    if not turns:
        return
    offsets = _byte_offsets(chat.text, [place for turn in turns for place in (turn.start, turn.end)])
    bounds = [*(offsets[turn.start] for turn in turns[1:]), len(chat.text.encode("utf-8")) + 1]
    for turn, bound in zip(turns, bounds, strict=True):
        start, end = offsets[turn.start], min(offsets[turn.end], bound)
        inside = np.flatnonzero(((spans[:, 1] > start) | (spans[:, 0] >= start)) & (spans[:, 0] < bound))
        first = int(inside[0]) if len(inside) else len(tokens)
        said = first + int(np.count_nonzero(spans[inside, 0] < end))
        yield first, _turn_end(tokens, first, said, first + len(inside), vocabulary, turn.is_whole)


def _turn_end(tokens: Int32Array, first: int, said: int, limit: int, vocabulary: Vocabulary, is_whole: bool) -> int:
    """Behind the first token that ends a turn: of those before `said` if the turn `is_whole`, else directly behind."""
    if is_whole:
        ended = next((i + 1 for i in range(first, said) if vocabulary.ends_generation(int(tokens[i]))), None)
        if ended is not None:
            return ended
        while said > first and not vocabulary.piece_bytes(int(tokens[said - 1])).strip(_BLANK):
            said -= 1
    for i in range(said, limit):
        token = int(tokens[i])
        if vocabulary.ends_generation(token):
            return i + 1
        if not vocabulary.is_control(token) and vocabulary.piece_bytes(token).strip(_BLANK):
            return said
    return said


def _byte_offsets(text: str, places: Sequence[int]) -> dict[int, int]:
    """UTF-8 offsets of places in a text."""
    found, at, n_bytes = {}, 0, 0
    for place in sorted(set(places)):
        n_bytes += len(text[at:place].encode("utf-8"))
        found[place] = n_bytes
        at = place
    return found
