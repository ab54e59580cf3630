"""Numbers of file types and cache types, beside those of the gguf package."""

from __future__ import annotations

import pytest
from gguf import GGMLQuantizationType, LlamaFileType

from quantprobe.gguf.file_types import FILE_TYPES, KV_TYPES, file_type_of


def test_file_types_are_those_of_the_gguf_package() -> None:
    known = {kind.name.removeprefix("MOSTLY_").removeprefix("ALL_"): int(kind) for kind in LlamaFileType}
    both = known.keys() & FILE_TYPES.keys()
    assert len(both) > 30
    for name in both:
        assert FILE_TYPES[name].number == known[name]


def test_every_number_has_one_name() -> None:
    for name, kind in FILE_TYPES.items():
        assert file_type_of(kind.number) == file_type_of(kind.number + 1024) == name == kind.name


@pytest.mark.parametrize("number", [4, 33, 999, -1])
def test_numbers_that_are_not_known(number: int) -> None:
    assert file_type_of(number) is None


def test_cache_types_are_ggml_types() -> None:
    assert {name: int(GGMLQuantizationType[name.upper()]) for name in KV_TYPES} == dict(KV_TYPES)
