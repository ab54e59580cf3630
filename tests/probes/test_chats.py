"""Chats: llama.cpp's own template engine, the assistant's tokens marked by hand, cutting at turns."""

from __future__ import annotations

import ctypes
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from chat_templates import MISTRAL_TOOLS, QWEN_3, TEMPLATES, PublishedTemplate
from chat_vocabulary import ChatVocabulary
from llama_cpp import llama_cpp

from quantprobe.engine.model import Model
from quantprobe.errors import InputError
from quantprobe.gguf.model import read_model_info
from quantprobe.probes.chat import ChatTemplate
from quantprobe.probes.chats import chat_probe, token_spans, tokenize_chat
from quantprobe.probes.conversations import Conversation, Message, is_chats, read_conversations
from quantprobe.probes.turns import render_chat
from quantprobe.settings import Settings

SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [
    {"role": "user", "content": "Is it late?"},
    {"role": "assistant", "content": "No.\n\nIt is noon."},
    {"role": "user", "content": "Grüße!\n"},
    {"role": "assistant", "content": "Hello 👋"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "Bye bye"},
]
TOOL = {"type": "function", "function": {"name": "sum", "parameters": {"type": "object"}}}
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "sum", "arguments": '{"a": 1, "b": "x"}'}}
TOOL_TURNS = [
    {"role": "user", "content": "Add"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "3"},
    {"role": "assistant", "content": "Three"},
]


def conversation(messages: Sequence[Message], **more: object) -> Conversation:
    line = json.dumps({"messages": messages, **more})
    return read_conversations(Path("chats.jsonl"), line)[0]


def prepared(published: PublishedTemplate, strips: bool = False) -> tuple[ChatTemplate, ChatVocabulary]:
    template = ChatTemplate(published.source, "m.gguf", published.bos, published.eos)
    bos = published.bos if published.adds_bos else ""
    return template, ChatVocabulary(bos, published.ends, published.special, strips)


def engine_text(name: str, messages: Sequence[Message]) -> str:
    """What llama.cpp's own template engine makes of the messages; it leaves BOS to the tokenizer."""
    chat = (llama_cpp.llama_chat_message * len(messages))(
        *((message["role"].encode(), message["content"].encode()) for message in messages)
    )
    buffer = ctypes.create_string_buffer(4096)
    n = llama_cpp.llama_chat_apply_template(name.encode(), chat, len(messages), False, buffer, len(buffer))
    assert 0 < n < len(buffer)
    return buffer.raw[:n].decode()


def marked(chat: Conversation, template: ChatTemplate, vocabulary: ChatVocabulary) -> str:
    """The text of the tokens, the scored ones between « and »."""
    rendered = render_chat(template, chat, vocabulary.bos is not None)
    found = tokenize_chat(rendered, vocabulary)
    text, inside = "", False
    for token, scored in zip(found.tokens.tolist(), found.scored.tolist(), strict=True):
        text += "«" if scored and not inside else "»" if inside and not scored else ""
        text += vocabulary.piece_bytes(token).decode()
        inside = scored
    return text + ("»" if inside else "")


@pytest.mark.parametrize("system", [True, False])
@pytest.mark.parametrize("name", TEMPLATES)
def test_texts_are_those_of_llama_cpp(name: str, system: bool) -> None:
    published = TEMPLATES[name]
    template, vocabulary = prepared(published)
    messages = [SYSTEM, *TURNS] if system else list(TURNS)
    wanted = engine_text(published.engine, messages)
    if system and not published.takes_system:
        # llama.cpp's Jinja path puts one line end between the system message and the first of the user's
        wanted = wanted.replace("Be brief.\n\n", "Be brief.\n")
    if name == "phi3":
        wanted += published.eos  # the published template ends a conversation so
    if name == "smollm2" and not system:
        wanted = engine_text("chatml", [{"role": "system", "content": "You are a helpful AI assistant named SmolLM, "
                                         "trained by Hugging Face"}, *TURNS])  # fmt: skip
    text = render_chat(template, conversation(messages), published.adds_bos).text
    assert text == wanted
    tokens = tokenize_chat(render_chat(template, conversation(messages), published.adds_bos), vocabulary).tokens
    assert np.array_equal(tokens, vocabulary.tokenize(wanted, add_special=True, parse_special=True))
    if vocabulary.bos is not None:
        assert tokens.tolist().count(vocabulary.bos) == 1


MARKED = {
    "chatml": "<|im_start|>user\nIs it late?<|im_end|>\n<|im_start|>assistant\n«No.\n\nIt is noon.<|im_end|>»\n"
    "<|im_start|>user\nGrüße!\n<|im_end|>\n<|im_start|>assistant\n«Hello 👋<|im_end|>»\n"
    "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n«Bye bye<|im_end|>»\n",
    "llama3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nIs it late?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n«No.\n\nIt is noon.<|eot_id|>»"
    "<|start_header_id|>user<|end_header_id|>\n\nGrüße!<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n«Hello 👋<|eot_id|>»"
    "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n«Bye bye<|eot_id|>»",
    "mistral-v7": "<s>[INST] Is it late?[/INST]« No.\n\nIt is noon.</s>»[INST] Grüße!\n[/INST]« Hello 👋</s>»"
    "[INST] Bye[/INST]« Bye bye</s>»",
    "gemma": "<bos><start_of_turn>user\nIs it late?<end_of_turn>\n<start_of_turn>model\n"
    "«No.\n\nIt is noon.<end_of_turn>»\n<start_of_turn>user\nGrüße!<end_of_turn>\n<start_of_turn>model\n"
    "«Hello 👋<end_of_turn>»\n<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n«Bye bye<end_of_turn>»\n",
    "phi3": "<|user|>\nIs it late?<|end|>\n<|assistant|>\n«No.\n\nIt is noon.<|end|>»\n<|user|>\nGrüße!\n<|end|>\n"
    "<|assistant|>\n«Hello 👋<|end|>»\n<|user|>\nBye<|end|>\n<|assistant|>\n«Bye bye<|end|>»\n<|endoftext|>",
    "phi4": "<|im_start|>user<|im_sep|>Is it late?<|im_end|>"
    "<|im_start|>assistant<|im_sep|>«No.\n\nIt is noon.<|im_end|>»"
    "<|im_start|>user<|im_sep|>Grüße!\n<|im_end|><|im_start|>assistant<|im_sep|>«Hello 👋<|im_end|>»"
    "<|im_start|>user<|im_sep|>Bye<|im_end|><|im_start|>assistant<|im_sep|>«Bye bye<|im_end|>»",
    "deepseek3": "<｜begin▁of▁sentence｜><｜User｜>Is it late?<｜Assistant｜>«No.\n\nIt is noon.<｜end▁of▁sentence｜>»"
    "<｜User｜>Grüße!\n<｜Assistant｜>«Hello 👋<｜end▁of▁sentence｜>»<｜User｜>Bye<｜Assistant｜>"
    "«Bye bye<｜end▁of▁sentence｜>»",
    "command-r": "<BOS_TOKEN><|START_OF_TURN_TOKEN|><|USER_TOKEN|>Is it late?<|END_OF_TURN_TOKEN|>"
    "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>«No.\n\nIt is noon.<|END_OF_TURN_TOKEN|>»"
    "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Grüße!<|END_OF_TURN_TOKEN|>"
    "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>«Hello 👋<|END_OF_TURN_TOKEN|>»"
    "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Bye<|END_OF_TURN_TOKEN|>"
    "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>«Bye bye<|END_OF_TURN_TOKEN|>»",
    "zephyr": "<|user|>\nIs it late?<|endoftext|>\n<|assistant|>\n«No.\n\nIt is noon.<|endoftext|>»\n"
    "<|user|>\nGrüße!\n<|endoftext|>\n<|assistant|>\n«Hello 👋<|endoftext|>»\n<|user|>\nBye<|endoftext|>\n"
    "<|assistant|>\n«Bye bye<|endoftext|>»\n",
    "chatglm4": "[gMASK]<sop><|user|>\nIs it late?<|assistant|>\n«No.\n\nIt is noon.<|user|>»\nGrüße!\n<|assistant|>\n"
    "«Hello 👋<|user|>»\nBye<|assistant|>\n«Bye bye»",
    "smollm2": "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nIs it late?<|im_end|>\n<|im_start|>assistant\n«No.\n\nIt is noon.<|im_end|>»\n"
    "<|im_start|>user\nGrüße!\n<|im_end|>\n<|im_start|>assistant\n«Hello 👋<|im_end|>»\n"
    "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n«Bye bye<|im_end|>»\n",
}  # fmt: skip


@pytest.mark.parametrize("name", TEMPLATES)
def test_scored_tokens_are_the_assistants(name: str) -> None:
    assert marked(conversation(TURNS), *prepared(TEMPLATES[name])) == MARKED[name]


def test_white_space_that_the_tokenizer_drops_behind_special_tokens() -> None:
    """Phi-3's tokenizer does."""
    text = marked(conversation(TURNS), *prepared(TEMPLATES["phi3"], strips=True))
    assert text == re.sub(r"(\|>»?)\s+", r"\1", MARKED["phi3"])


MARKED_TOOLS = {
    "chatml": '<|im_start|>system\n# Tools\n\n<tools>\n{"type": "function", "function": {"name": "sum", "parameters": '
    '{"type": "object"}}}\n</tools><|im_end|>\n<|im_start|>user\nAdd<|im_end|>\n<|im_start|>assistant\n«<tool_call>\n'
    '{"name": "sum", "arguments": {"a": 1, "b": "x"}}\n</tool_call><|im_end|>»\n<|im_start|>user\n<tool_response>\n3\n'
    "</tool_response><|im_end|>\n<|im_start|>assistant\n«Three<|im_end|>»\n",
    "llama3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nAdd<|eot_id|><|start_header_id|>assistant"
    '<|end_header_id|>\n\n«{"name": "sum", "parameters": {"a": 1, "b": "x"}}<|eot_id|>»<|start_header_id|>ipython'
    "<|end_header_id|>\n\n3<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n«Three<|eot_id|>»",
}  # fmt: skip


@pytest.mark.parametrize("name", MARKED_TOOLS)
def test_tool_calls_are_the_assistants(name: str) -> None:
    assert marked(conversation(TOOL_TURNS, tools=[TOOL]), *prepared(TEMPLATES[name])) == MARKED_TOOLS[name]


def test_tools_that_move_with_the_conversation() -> None:
    """The beginnings of the conversation are not what the template makes of its first messages."""
    special = ("<s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]",
               "[/TOOL_RESULTS]")  # fmt: skip
    published = PublishedTemplate("", MISTRAL_TOOLS, "<s>", "</s>", ("</s>",), special)
    messages = [*TURNS[:2], *TOOL_TURNS]
    # what is between the tokens [/INST] and "No" may belong to either; the space is a part of the token " No"
    assert marked(conversation(messages, tools=[TOOL]), *prepared(published)) == (
        '<s>[INST] Is it late?[/INST]« No.\n\nIt is noon.</s>»[AVAILABLE_TOOLS] [{"type": "function", "function": '
        '{"name": "sum", "parameters": {"type": "object"}}}][/AVAILABLE_TOOLS][INST] Add[/INST]«[TOOL_CALLS] [{"name": '
        '"sum", "arguments": {"a": 1, "b": "x"}}]</s>»[TOOL_RESULTS] {"content": 3}[/TOOL_RESULTS]« Three</s>»'
    )


def test_thoughts_that_earlier_turns_lose() -> None:
    published = PublishedTemplate("", QWEN_3, "", "<|im_end|>", ("<|im_end|>",), ("<|im_start|>",), False)
    thinking = [TURNS[0], {**TURNS[1], "reasoning_content": "hm"}, TURNS[4], {**TURNS[5], "reasoning_content": "ok"}]
    assert marked(conversation(thinking), *prepared(published)) == (
        "<|im_start|>user\nIs it late?<|im_end|>\n<|im_start|>assistant\n«No.\n\nIt is noon.<|im_end|>»\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n«<think>\nok\n</think>\n\nBye bye<|im_end|>»\n"
    )


def test_a_template_that_hides_who_speaks_is_refused() -> None:
    template = ChatTemplate("{{ messages | length }}: {{ messages[-1].content | upper }}", "m.gguf")
    vocabulary = ChatVocabulary("", ("</s>",), ())
    with pytest.raises(
        InputError, match=r"the chats 'c', line 1: the chat template writes .* --score all needs no turns"
    ):
        chat_probe("c", [conversation(TURNS)], template, vocabulary, 64)
    probe = chat_probe("c", [conversation(TURNS)], template, vocabulary, 64, score="all")
    assert probe.n_rows == int(probe.lengths()[0]) - 1


def test_arguments_as_text_where_a_template_wants_text() -> None:
    source = "{% for m in messages %}{% for c in m.tool_calls %}{{ FORM }}{% endfor %}{% endfor %}"
    for form in ("c.function.arguments", "'#' + c.function.arguments"):
        template = ChatTemplate(source.replace("FORM", form), "m.gguf")
        text = render_chat(template, conversation(TOOL_TURNS), False).text
        assert text.removeprefix("#") == '{"a": 1, "b": "x"}'


def test_a_space_that_the_tokenizer_puts_before_a_word() -> None:
    class Spaced(ChatVocabulary):
        def piece_bytes(self, token: int) -> bytes:
            piece = super().piece_bytes(token)
            return b" " + piece if piece.isalpha() else piece

    vocabulary = Spaced("<s>", ("</s>",), ("<s>",))
    tokens = vocabulary.tokenize("ab cd</s>", True, True)
    assert token_spans("ab cd</s>", tokens, vocabulary).tolist() == [[0, 0], [0, 2], [2, 5], [5, 9]]
    with pytest.raises(InputError, match="the tokenizer changes the text"):
        token_spans("AB cd</s>", tokens, vocabulary)


def test_cut_at_turns() -> None:
    template, vocabulary = prepared(TEMPLATES["llama3"])
    chats = [conversation(TURNS, category="a"), conversation(TURNS[:2]), conversation(TURNS[:1], category="b")]
    whole = chat_probe("c", chats, template, vocabulary, 1000)
    counts = whole.own.cut
    assert (counts.n_read, counts.n_shortened, counts.n_turns, counts.n_left_out) == (3, 0, 0, 1)
    assert whole.categories() == ("a", "")
    first, second, third = np.flatnonzero(np.diff(np.append(whole.own.scored[0], False).astype(int)) == -1) + 2
    assert whole.lengths().tolist() == [third, first]
    for n_ctx, n, n_turns in ((third, third, 0), (third - 1, second, 1), (second - 1, first, 2)):
        probe = chat_probe("c", chats, template, vocabulary, int(n_ctx))
        counts = probe.own.cut
        assert probe.lengths()[0] == n
        assert np.array_equal(probe.tokens[0, :n], whole.tokens[0, :n])
        assert (counts.n_turns, counts.n_shortened, counts.longest) == (n_turns, n_turns > 0, third)
        assert probe.row_counts()[0] == np.count_nonzero(whole.own.scored[0, : n - 1])
    with pytest.raises(InputError, match=f"none of the 3 conversations .* has {third}.*larger --ctx-size"):
        chat_probe("c", chats, template, vocabulary, int(first) - 1)
    with pytest.raises(InputError, match="no turn of the assistant's to score"):
        chat_probe("c", chats[2:], template, vocabulary, 1000)
    one = chat_probe("c", chats, template, vocabulary, 1000, n_chunks=1)
    assert (one.n_windows, one.own.cut.n_read) == (1, 1)
    everything = chat_probe("c", chats, template, vocabulary, int(third) - 1, score="all")
    assert everything.lengths().tolist()[:2] == [second, first]
    assert everything.row_counts().tolist()[:2] == [second - 1, first - 1]


def test_targets_are_what_the_rows_predict() -> None:
    template, vocabulary = prepared(TEMPLATES["chatml"])
    probe = chat_probe("c", [conversation(TURNS), conversation(TOOL_TURNS, tools=[TOOL])], template, vocabulary, 1000)
    pieces = [vocabulary.piece_bytes(token).decode() for token in probe.targets()]
    said = "".join("".join(re.findall("«(.*?)»", MARKED["chatml"], re.DOTALL)))
    said += "".join(re.findall("«(.*?)»", MARKED_TOOLS["chatml"], re.DOTALL))
    assert "".join(pieces) == said
    assert probe.windows().tolist() == sorted(probe.windows())
    assert np.bincount(probe.windows()).tolist() == probe.row_counts().tolist()
    part, rows = probe.subset(np.array([1]))
    assert np.array_equal(part.targets(), probe.targets()[rows])
    assert part.sha256() != probe.sha256()


BAD = [
    ("{", "not JSON"),
    ('{"messages": [NaN]}', "NaN is no JSON"),
    ("[1]", "a JSON object is expected"),
    ('{"messages": []}', "missing or empty"),
    ('{"messages": 3}', "'messages' must be a list"),
    ('{"messages": ["hi"]}', r"messages\[0\] must be an object"),
    ('{"messages": [{"content": "hi"}]}', "'role' must be a text"),
    ('{"messages": [{"role": "user", "content": 3}]}', "'content' must be text"),
    ('{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "'content' must be text"),
    ('{"messages": [{"role": "user", "content": "\\ud800"}]}', "surrogate"),
    ('{"messages": [{"role": "assistant", "tool_calls": [{}]}]}', "'function' must be an object"),
    ('{"messages": [{"role": "user", "content": "a"}], "tools": [1]}', "tools must hold objects"),
    ('{"messages": [{"role": "user", "content": "a"}], "category": 3}', "'category' must be a text"),
    ('{"messages": ' + "[" * 100_000, "nested too deeply|not JSON"),
    ('{"messages": [' + ",".join(['{"role": "user"}'] * 1001) + "]}", "1,001 messages"),
]


@pytest.mark.parametrize(("line", "words"), BAD)
def test_bad_lines(line: str, words: str) -> None:
    good = json.dumps({"messages": TURNS})
    with pytest.raises(InputError, match=f"chats.jsonl, line 3: .*({words}).*each line is one JSON object"):
        read_conversations(Path("chats.jsonl"), f"{good}\n\n{line}\n")


def test_too_many_categories() -> None:
    lines = [json.dumps({"messages": TURNS[:2], "category": str(i)}) for i in range(201)]
    with pytest.raises(InputError, match="201 categories"):
        read_conversations(Path("c.jsonl"), "\n".join(lines))


def test_chats_are_told_by_content() -> None:
    line = json.dumps({"messages": TURNS})
    assert is_chats(Path("x.txt"), f"\ufeff\n {line}\n")
    assert len(read_conversations(Path("x.txt"), f"\ufeff{line}\r\n{line}")) == 2
    for text in ("Once upon a time", "", "{not json}", '{"a": 1}', "[1]"):
        assert not is_chats(Path("x.txt"), text)
    with pytest.raises(InputError, match=r"the first line has the keys 'conversations'; .* rename it"):
        is_chats(Path("x.jsonl"), '{"conversations": []}')
    with pytest.raises(InputError, match="the first line is not JSON"):
        is_chats(Path("x.jsonl"), line[:-1])


def test_content_in_parts_and_developers() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    chat = conversation([{"role": "developer", "content": parts}, *TURNS[:2]])
    template, _ = prepared(TEMPLATES["chatml"])
    assert render_chat(template, chat, False).text.startswith("<|im_start|>system\na\nb<|im_end|>\n")


def test_the_real_tokenizer(smollm2: Path) -> None:
    info = read_model_info(smollm2)
    with Model(info, Settings(n_gpu_layers=0), vocab_only=True) as model:
        template = ChatTemplate(info.chat_template, info.path.name, model.bos_text, model.eos_text)
        chat = render_chat(template, conversation([SYSTEM, *TURNS]), model.bos is not None)
        found = tokenize_chat(chat, model)
        wanted = model.tokenize(engine_text("chatml", [SYSTEM, *TURNS]), add_special=True, parse_special=True)
        assert np.array_equal(found.tokens, wanted)
        said = b"".join(model.piece_bytes(token) for token in found.tokens[found.scored].tolist()).decode()
    assert said == "No.\n\nIt is noon.<|im_end|>Hello 👋<|im_end|>Bye bye<|im_end|>"


def test_a_turn_that_no_token_ends() -> None:
    """A result that the template writes directly behind the call is not the assistant's."""
    source = (
        "{% for m in messages %}{% if m.tool_calls %}{% set ns = m.tool_calls[0].function.name %}<call>{{ ns }}\n"
        "{% elif m.role == 'tool' %}{% if not messages[loop.index0 - 1].tool_calls %}{{ raise_exception('no') }}"
        "{% endif %}<result>{{ m.content }}{% else %}<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}"
    )
    for ends, text in (
        ((), "<user>Add«<call>sum»\n<result>3<assistant>«Three»"),
        (("<result>",), "<user>Add«<call>sum\n<result>»3<assistant>«Three»"),
    ):
        vocabulary = ChatVocabulary("", (*ends, "</s>"), ("<user>", "<assistant>", "<call>"))
        template = ChatTemplate(source, "m.gguf")
        assert marked(conversation(TOOL_TURNS), template, vocabulary) == text
