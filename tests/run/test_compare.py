"""Which recorded differences are refused, and which are only told."""

from __future__ import annotations

from typing import Any

import pytest

from quantprobe.errors import MismatchError
from quantprobe.report.notes import differences
from quantprobe.run.cohort import Cohort
from quantprobe.run.compare import NOT_KNOWN, require_comparable, setting_differences
from quantprobe.settings import MACHINE

HERE: dict[str, Any] = {
    "n_ctx": 512, "flash_attn": True, "llama_cpp_version": "0.5.0", "llama_cpp_commit": "0c1e570",
    "llama_cpp_python_version": "0.3.36",
    "backend": "CPU", "cpu_features": "AVX2 FMA", "gpu_features": "none", "devices_used": ["CPU"],
    "devices": ["CPU: Xeon"], "split_used": "none", "overrides_used": "none",
    "flash_attn_used": True,
}  # fmt: skip


@pytest.mark.parametrize("name", MACHINE)
def test_a_fact_of_the_machine_is_refused_where_both_know_it(name: str) -> None:
    there = HERE | {name: ["H200"] if name == "devices_used" else False if name == "flash_attn_used" else "SVE"}
    with pytest.raises(MismatchError, match=f"--allow {name}$"):
        require_comparable(setting_differences(HERE, there), (), "two runs")
    (kept,) = require_comparable(setting_differences(HERE, there), (name,), "two runs")
    assert kept.moves_logits and kept.is_of_machine and kept.is_known


@pytest.mark.parametrize("name", MACHINE)
@pytest.mark.parametrize("missing", ["left out", None, "unknown"])
def test_a_fact_that_one_side_does_not_know_is_told(name: str, missing: str | None) -> None:
    old = {key: value for key, value in HERE.items() if key != name}
    if missing != "left out":
        old[name] = missing
    (found,) = require_comparable(setting_differences(old, HERE), (), "two runs")
    assert (found.name, found.a, found.moves_logits, found.is_known) == (name, NOT_KNOWN, False, False)
    assert setting_differences(old, old) == () and setting_differences(old, old | {name: None}) == ()


def test_an_older_record_does_not_tell_how_a_model_was_split() -> None:
    (found,) = require_comparable(setting_differences(HERE, HERE | {"split_mode": "layer"}), (), "two runs")
    assert not found.is_known and not found.moves_logits


def test_flash_attention_that_was_not_asked_for_is_told_once() -> None:
    found = setting_differences(HERE, HERE | {"flash_attn": False, "flash_attn_used": False})
    assert [each.name for each in found] == ["flash_attn"]


def test_names_and_order_of_devices_and_other_versions_of_ours_are_no_reason() -> None:
    there = HERE | {"devices": ["CPU: EPYC"], "llama_cpp_python_version": "0.3.40"}
    found = setting_differences(HERE, there)
    assert [(each.name, each.moves_logits) for each in found] == [
        ("devices", False), ("llama_cpp_python_version", False)
    ]  # fmt: skip


def test_the_version_of_the_binding_stands_for_a_commit_that_nobody_knows() -> None:
    a, b = (HERE | {"llama_cpp_commit": None, "llama_cpp_python_version": version} for version in ("0.3.36", "0.3.40"))
    with pytest.raises(MismatchError, match=r"llama_cpp_python_version is 0\.3\.36 and 0\.3\.40"):
        require_comparable(setting_differences(a, b), (), "two runs")
    del a["llama_cpp_commit"]  # an older record did not look for it
    assert not any(each.moves_logits for each in setting_differences(a, b))


def test_features_are_told_by_what_differs() -> None:
    (found,) = setting_differences(HERE, HERE | {"cpu_features": "AVX2 AVX512 FMA"})
    assert str(found) == "cpu_features differ: nothing in the first alone, AVX512 in the second"


def test_a_measured_number_replaces_the_general_warning() -> None:
    found = setting_differences(HERE, HERE | {"backend": "CUDA"})
    with pytest.raises(MismatchError) as refused:
        require_comparable(found, (), "two runs", "the base moved by 0.0001 nats")
    assert "as much as a good quant" not in str(refused.value)
    assert "(backend is CPU and CUDA); the base moved by 0.0001 nats; measure under" in str(refused.value)


def test_notes_say_what_is_not_known() -> None:
    found = setting_differences({"n_ctx": 512}, {"n_ctx": 512, "backend": "CPU", "devices": ["CPU: Xeon"]})
    cohort = Cohort.__new__(Cohort)
    object.__setattr__(cohort, "differences", found)
    assert differences(cohort) == [
        "The runs differ in settings that move no logit: devices is not set and ['CPU: Xeon'].",
        "Not every run tells backend, in which they may differ.",
    ]
