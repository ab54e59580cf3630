"""Size of the page of 40 quants, 3 tasks and 2 texts, and how long a browser takes to show it.

    python bench/page.py [REPORT.html]

Without a file the page of a synthetic run is written first (timed apart). Each opening is a new tab of one headless
Chromium: from the start of the navigation to the first picture on the screen, and to the end of the load with all
scripts run. Needs Chromium, chromedriver and selenium.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

N_OPENINGS = 9
TIMES = """
const [load] = performance.getEntriesByType("navigation");
const paint = performance.getEntriesByName("first-contentful-paint")[0];
return [paint ? paint.startTime : null, load.loadEventEnd, document.querySelectorAll("#change .point").length];
"""


def write_page(folder: Path) -> Path:
    from fake_run import FakeRun, ladder, write_fake_run

    from quantprobe.report.page.html import render_page
    from quantprobe.run.cohort import read_cohort

    tasks, texts = dict.fromkeys(("arc", "hellaswag", "mmlu"), 600), dict.fromkeys(("wiki", "code"), 2_048)
    cohort = read_cohort([write_fake_run(folder / "run", FakeRun(quants=ladder(40), tasks=tasks, texts=texts))])
    start = time.perf_counter()
    page = folder / "report.html"
    page.write_text(render_page(cohort), encoding="utf-8", newline="\n")
    print(f"written in {time.perf_counter() - start:.2f} s (answers of {40 * 3} files read)")
    return page


def main() -> None:
    from browser import open_browser, set_window

    with tempfile.TemporaryDirectory() as name:
        page = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else write_page(Path(name))
        print(f"{page.stat().st_size / 1e6:.2f} MB")
        with open_browser(Path(name) / "profile") as driver:
            for width, height in ((1280, 800), (390, 844)):
                paints, loads = [], []
                for _ in range(N_OPENINGS):
                    driver.switch_to.new_window("tab")
                    set_window(driver, width, height)
                    driver.get(page.as_uri())
                    paint, load, n_points = driver.execute_script(TIMES)
                    loads.append(load)
                    paints += [] if paint is None else [paint]
                bottom = driver.execute_script(
                    "return document.querySelector('#answer').getBoundingClientRect().bottom"
                )
                first = f"first picture {statistics.median(paints):.0f} ms, " if paints else ""
                print(
                    f"{width} x {height}: {first}all loaded {statistics.median(loads):.0f} ms "
                    f"(at most {max(loads):.0f}), {n_points} points; the answer ends at {bottom:.0f} px"
                )


if __name__ == "__main__":
    main()
