"""Checks of metadata, tensor list, tokenizer, special tokens and chat template, mostly against the base."""

from __future__ import annotations

import re
from collections.abc import Sequence

from quantprobe.checks.outcome import FAIL, WARN, Check, listed, passed, skipped
from quantprobe.checks.subject import Subject
from quantprobe.errors import InputError
from quantprobe.gguf.differences import (
    TEMPLATE,
    KeyDifference,
    compare_metadata,
    compare_templates,
    compare_tensors,
    compare_token_lists,
    compare_tokenizer_keys,
    read_numbers,
    read_strings,
)
from quantprobe.gguf.header import Header
from quantprobe.probes.chat import chat_renderer

METADATA, TENSORS, TOKENIZER, SPECIAL, CHAT = "metadata", "tensors", "tokenizer", "special tokens", "chat template"
_NO_BASE = "no base to compare with; give --base"
_FREE_KEYS = ("general.",)
"""Names, authors, links: a publisher may change them."""
_CONTROL, _USER_DEFINED = 3, 4
"""`enum llama_token_type`: what llama.cpp takes for one token where it stands in a prompt."""
_SPECIAL_ID = re.compile(r"tokenizer\.ggml\.\w+_token_id")
_MARKUP = re.compile(
    r"<[|｜][^<>|｜\s]{1,40}[|｜]>|<[a-z_]*(?:start|end)_of_[a-z_]+>|\[/?INST\]|</?s>|<[a-z]*\|>|<\|[a-z]*>"
)
"""What special tokens look like in chat templates; only those that are tokens of the vocabulary count."""


def check_metadata(subject: Subject) -> Check:
    """Hyperparameters equal to the base's: rope, heads, experts, context; other keys may differ, with a warning."""
    if subject.base is None:
        return skipped(METADATA, _NO_BASE)
    differences = compare_metadata(subject.base.first, subject.model.first)
    grave = [each for each in differences if not each.key.startswith(_FREE_KEYS) and each.base != "missing"]
    grave += [each for each in differences if each.key in ("general.architecture", "general.type")]
    details = tuple(map(_describe, differences))
    if grave:
        reason = (
            f"{len(grave)} keys differ from the base's: {listed([_describe(each) for each in grave], 2)}; convert again"
        )
        return Check(METADATA, FAIL, reason, details)
    lost = [each for each in differences if each.base != "missing"]
    more = [each for each in differences if each.base == "missing" and not each.key.startswith(_FREE_KEYS)]
    if lost or more:
        named = listed([_describe(each) for each in (*lost, *more)], 2)
        return Check(METADATA, WARN, f"keys that name the model or are not in the base differ: {named}", details)
    n = len(subject.model.first.metadata)
    return Check(METADATA, "pass", f"{n} keys; those that the base has are the same", details)


def _describe(difference: KeyDifference) -> str:
    return f"{difference.key} is {difference.quant}, {difference.base} in the base"


def check_tensors(subject: Subject) -> Check:
    """Names and shapes equal to the base's."""
    if subject.base is None:
        return skipped(TENSORS, _NO_BASE)
    differences = compare_tensors(subject.base.tensors, subject.model.tensors)
    if not differences:
        return passed(TENSORS, f"{len(subject.model.tensors):,} tensors with the names and shapes of the base's")
    details = tuple(f"{each.kind}: {each.name} ({each.quant or each.base})" for each in differences)
    reason = f"{len(differences)} tensors differ from the base's: {listed(details)}; convert or quantize again"
    return Check(TENSORS, FAIL, reason, details)


def check_tokenizer(subject: Subject) -> Check:
    """All that decides which ids a text becomes, equal to the base's."""
    ours = subject.model.info.tokenizer_sha256
    if subject.base is None:
        identity = subject.base_identity
        if identity is None or not identity.tokenizer_sha256:
            return skipped(TOKENIZER, _NO_BASE)
        if ours == identity.tokenizer_sha256:
            return passed(TOKENIZER, f"the same as the captured base's, digest {ours[:8]}")
        reason = (
            f"its digest is {ours[:8]}, {identity.tokenizer_sha256[:8]} in the capture of {identity.name}; "
            "compare with the base's file (--base) to see which tokens differ"
        )
        return Check(TOKENIZER, FAIL, reason)
    base = subject.base
    if ours == base.info.tokenizer_sha256:
        return passed(TOKENIZER, f"{subject.model.info.n_vocab:,} tokens, the same as the base's, digest {ours[:8]}")
    details = [_describe(each) for each in compare_tokenizer_keys(base.first, subject.model.first)]
    for each in compare_token_lists(base.first, subject.model.first):
        details.append(f"{each.n_different:,} of {max(each.n_base, each.n_quant):,} {each.what} differ")
        details += [f"{one.what}[{one.number}] is {one.quant}, {one.base} in the base" for one in each.first]
    reason = f"differs from the base's: {listed(details, 4)}; convert both with the same tokenizer"
    return Check(TOKENIZER, FAIL, reason, tuple(details))


def check_special_tokens(subject: Subject) -> Check:
    """Ids within the vocabulary and the base's, an end of text or turn, and template markup that is one token."""
    header, n_vocab = subject.model.first, subject.model.info.n_vocab
    ids = {key: value for key, value in header.metadata.items() if _SPECIAL_ID.fullmatch(key)}
    outside = [
        f"{key} is {value}"
        for key, value in ids.items()
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < n_vocab
    ]
    if outside:
        reason = f"{listed(outside)}, expected a token number below {n_vocab:,}; convert again"
        return Check(SPECIAL, FAIL, reason, tuple(outside))
    found = list(_markup_as_text(header))
    if not any(f"tokenizer.ggml.{name}_token_id" in ids for name in ("eos", "eot", "eom")):
        found.append("no end of text or turn is declared (eos_token_id, eot_token_id), so generation may never end")
    if subject.base is not None:
        differences = compare_tokenizer_keys(subject.base.first, header)
        found += [_describe(each) for each in differences if each.key.endswith("token_id")]
    if found:
        return Check(SPECIAL, WARN, f"{listed(found)}; correct the file or say why", tuple(found))
    names = ", ".join(f"{key.split('.')[-1].removesuffix('_token_id')} {value}" for key, value in ids.items())
    return passed(SPECIAL, names or "none are declared")


def _markup_as_text(header: Header) -> Sequence[str]:
    """Markup of the template that is in the vocabulary as ordinary text: a prompt would be cut into other tokens."""
    template = header.text(TEMPLATE) or ""
    tokens, types = read_strings(header, "tokenizer.ggml.tokens"), read_numbers(header, "tokenizer.ggml.token_type")
    if not template or len(types) != len(tokens):
        return []
    wanted = {match.encode("utf-8") for match in _MARKUP.findall(template)}
    return [
        f"{token.decode('utf-8', 'replace')!r} of the template is token {i} and of the type of ordinary text"
        for i, token in enumerate(tokens)
        if token in wanted and types[i] not in (_CONTROL, _USER_DEFINED)
    ]


def check_chat_template(subject: Subject) -> Check:
    """Present where the base has one, equal to it, and able to render a message."""
    header = subject.model.first
    template = header.text(TEMPLATE)
    if subject.base is not None:
        differences = compare_templates(subject.base.first, header)
        if differences:
            details = tuple(map(_describe, differences))
            reason = (
                f"differs from the base's: {listed(details, 2)}; write the base's, or validate against a corrected base"
            )
            return Check(CHAT, FAIL, reason, details)
    if not template:
        return skipped(CHAT, "the file has none" + ("" if subject.base is None else ", as its base"))
    try:
        chat_renderer(template, subject.model.name)("Hello")
    except InputError as error:
        return Check(CHAT, WARN, f"{error}; render it with the publisher's own example before you release the file")
    same = "" if subject.base is None else ", the same as the base's"
    return passed(CHAT, f"{len(template):,} characters{same}; renders a user's message")
