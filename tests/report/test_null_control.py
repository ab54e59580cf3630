"""What is said of the null control, wherever it is said: only what a control supports."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from made_run import as_cohort, fake_results

from quantprobe.report.card import format_card
from quantprobe.report.finish import results_markdown
from quantprobe.report.notes import null_sentences
from quantprobe.report.page.html import render_page
from quantprobe.run.results import NullControl
from quantprobe.stats.estimates import Estimate


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"kld_max": 0.5}, "the largest 0.500 nats"),
        ({"kld_max": None}, "the largest not recorded"),
        ({"kld_mean": Estimate(0.0)}, "an unknown number of rows"),
        ({"same_top": Estimate(0.999)}, "the largest 0 nats"),
        ({"kld_mean": Estimate(None, n=0), "kld_max": None}, "no row of the base is a number"),
    ],
    ids=["one row", "no maximum", "no count", "a top token", "no finite row"],
)
def test_exactly_0_needs_every_maximum(changed: dict[str, Any], told: str) -> None:
    results = fake_results(floor=0.0)
    assert results.null_control is not None and results.null_control.texts["wiki"] is not None
    entry = replace(results.null_control.texts["wiki"], **changed)
    cohort = as_cohort(replace(results, null_control=NullControl(texts={"wiki": entry})))
    pages = [*null_sentences(cohort), results_markdown(cohort), render_page(cohort), format_card(cohort)]
    assert "exactly 0" not in " ".join(pages) and told in null_sentences(cohort)[0]


def test_without_a_control_nothing_says_that_one_stands_in_the_table() -> None:
    line = "The base's line shows the null control."
    assert line in results_markdown(as_cohort(fake_results(floor=0.0)))
    assert line not in results_markdown(as_cohort(fake_results(floor=None)))
