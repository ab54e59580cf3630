"""A call to the disk fails in a sweep: old or new results are there, and the same sweep ends with the same bytes.

`bench/faults.py` takes every call and every fault; these tests take some of them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_runs import JOBS, check_point, make_case, work_calmly
from faults import ERRORS


@pytest.mark.parametrize("first", [7, 14, 21, 28])
@pytest.mark.parametrize("job", JOBS)
def test_a_fault_loses_nothing_and_mixes_nothing(tmp_path: Path, job: str, first: int) -> None:
    kinds = list(ERRORS.values())
    case = make_case(tmp_path, job)
    calm = work_calmly(case)
    assert calm.n_calls >= 28
    for point in range(first, calm.n_calls + 1, 29):
        check_point(case, calm, point, kinds[point // 7 % 4])


@pytest.mark.parametrize("job", JOBS)
def test_a_file_that_cannot_be_read_once(tmp_path: Path, job: str) -> None:
    case = make_case(tmp_path, job)
    calm = work_calmly(case, reads=True)
    for point in range(3, calm.n_calls + 1, 13):
        check_point(case, calm, point, ERRORS["input/output"], reads=True)
