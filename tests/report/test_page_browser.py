"""The page in a real browser: the answer is seen at once, hover and keys work, nothing is asked of the network."""

from dataclasses import replace
from pathlib import Path

import pytest
from browser import complaints, open_browser, requests, set_window
from fake_run import FakeQuant, FakeRun, ladder, write_fake_run

from quantprobe.report.page.html import render_cohort, render_page
from quantprobe.run.cohort import read_cohort

HOSTILE = '</script><script>hacked=1</script><img src=x onerror="hacked=1">'
COHORTS = {
    "seven": FakeRun(quants=ladder(7), tasks={"arc": 400}),
    "many": FakeRun(
        quants=ladder(24), tasks={"arc": 200, "hella": 100}, texts={"wiki": 128, "code": 128}, with_files=False
    ),
    "undecided": FakeRun(quants=ladder(12, "null"), tasks={"arc": 60}, texts={}),
    "texts": FakeRun(quants=ladder(12), tasks={}),
    "long": FakeRun(
        quants=tuple(replace(q, name=f"{q.name}-imatrix-v2-unsloth-fixed") for q in ladder(16)), tasks={"arc": 300}
    ),
    "hostile": FakeRun(quants=(*ladder(3), FakeQuant(HOSTILE, 0.02, -0.1, 70_000_000)), tasks={HOSTILE: 80}),
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for name, run in COHORTS.items():
        cohort = read_cohort([write_fake_run(folder / name, run)])
        (folder / f"{name}.html").write_text(render_page(cohort), encoding="utf-8", newline="\n")
        if name == "seven":
            frame = f"<!doctype html><title>notebook</title>{render_cohort(cohort)}"
            (folder / "notebook.html").write_text(frame, encoding="utf-8", newline="\n")
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def opened(pages, browser):
    """Opens a page of a cohort by name; afterwards the console must be silent and the network unused."""

    def show(name, width=1280, height=800, **options):
        set_window(browser, width, height, **options)
        browser.get((pages / f"{name}.html").as_uri())
        return browser

    complaints(browser), requests(browser)
    yield show
    assert complaints(browser) == []
    assert {Path(url).suffix for url in requests(browser) if not url.startswith("data:")} <= {".html"}


def ask(driver, script, *arguments):
    return driver.execute_script(f"return {script}", *arguments)


def point(driver, chart, place):
    return driver.find_element("css selector", f'#{chart} [data-quant="{place}"]')


@pytest.mark.parametrize("size", [(1280, 800), (390, 844)], ids=str)
@pytest.mark.parametrize("name", COHORTS)
def test_the_answer_is_visible_without_scrolling(opened, name, size):
    driver = opened(name, *size)
    assert ask(driver, "document.querySelector('#answer').getBoundingClientRect().bottom") <= size[1]
    assert ask(driver, "scrollY") == 0 and ask(driver, "document.documentElement.scrollWidth") == size[0]
    assert len(driver.find_elements("css selector", "#answer .block h2")) == 3


def test_hovering_shows_the_numbers_everywhere(opened):
    driver = opened("seven")
    from selenium.webdriver import ActionChains

    label = ask(driver, "quants[4].label")
    ActionChains(driver).move_to_element(point(driver, "change", 4)).perform()
    tip = driver.find_element("id", "tip")
    assert tip.is_displayed() and tip.text.startswith(label) and "points" in tip.text and "KLD" in tip.text
    assert len(driver.find_elements("css selector", '.hovered[data-quant="4"]')) >= 3
    assert ask(driver, "[...document.querySelectorAll('#distance .strong')].map((e) => e.textContent)")[-1] == label
    ActionChains(driver).move_to_element(driver.find_element("tag name", "h1")).perform()
    assert not tip.is_displayed() and not driver.find_elements("css selector", ".hovered")


def test_keys_reach_select_and_leave_a_quant(opened):
    driver = opened("seven")
    from selenium.webdriver import ActionChains, Keys

    def press(key):
        ActionChains(driver).send_keys(key).perform()
        return ask(driver, "document.activeElement.dataset.quant")

    reached = next((place for _ in range(25) if (place := press(Keys.TAB)) is not None), None)
    assert reached is not None and driver.find_element("id", "tip").is_displayed()
    by_size = ask(driver, "charts.change.drawn.points.toSorted((a, b) => a.px - b.px).map((p) => String(p.place))")
    following = press(Keys.ARROW_RIGHT)
    assert following == by_size[(by_size.index(reached) + 1) % len(by_size)]
    assert press(Keys.ARROW_LEFT) == reached
    press(Keys.ENTER)
    detail = driver.find_element("id", "detail")
    assert detail.is_displayed() and ask(driver, f"quants[{reached}].name") in detail.text
    assert ask(driver, "document.activeElement.getAttribute('aria-pressed')") == "true"
    assert driver.find_elements("css selector", f'tr.picked[data-quant="{reached}"]')
    press(Keys.ESCAPE)
    assert not detail.is_displayed() and not driver.find_elements("css selector", ".picked")


def test_a_click_on_a_point_a_name_and_the_card_selects(opened):
    driver = opened("seven")
    from selenium.webdriver import ActionChains

    ActionChains(driver).move_to_element(point(driver, "distance", 6)).click().perform()
    assert ask(driver, "state.picked") == 6
    driver.find_element("css selector", '#main [data-pick="2"]').click()
    detail = driver.find_element("id", "detail").text
    assert ask(driver, "quants[2].name") in detail and "SHA-256" in detail and "Drops" in detail
    driver.find_element("css selector", "#answer [data-pick]").click()
    assert ask(driver, "state.picked !== 2 && document.querySelectorAll('tr.picked').length === 1")


def test_the_table_sorts_and_filters(opened):
    driver = opened("many")
    column = "[...document.querySelectorAll('#main thead th')].findIndex((h) => h.textContent.startsWith('Mean KLD'))"
    place = ask(driver, column)
    button = driver.find_element("css selector", f"#main thead th:nth-child({place + 1}) button")
    read = f"[...document.querySelectorAll('#main tbody tr')].map((r) => Number(r.cells[{place}].dataset.sort))"
    button.click()
    assert ask(driver, read) == sorted(ask(driver, read)) and len(ask(driver, read)) == 24
    button.click()
    assert ask(driver, read) == sorted(ask(driver, read), reverse=True)
    assert button.find_element("xpath", "..").get_attribute("aria-sort") == "descending"
    driver.find_element("id", "filter-name").send_keys("q8")
    shown = "[...document.querySelectorAll('#main tbody tr')].filter((r) => !r.hidden).map((r) => r.cells[0].innerText)"
    assert ask(driver, shown) == ["Q8_0"]
    assert driver.find_element("id", "shown").text == "1 of 24 quants shown"
    assert len(driver.find_elements("css selector", "#change .point.dim")) == 23


def test_verdicts_filter_and_the_card_leads_to_them(opened):
    driver = opened("many")
    link = driver.find_element("css selector", '#answer [data-filter="worse"]')
    link.click()
    verdicts = "quants.filter((q, i) => !document.querySelector(`tr[data-quant='${i}']`).hidden)"
    assert set(ask(driver, f"{verdicts}.map((q) => answers(q).verdict)")) == {"worse"}


def test_the_selectors_change_pictures_and_table(opened):
    driver = opened("many")
    read = "[...document.querySelectorAll('#main tbody tr')].map((r) => r.innerText)"
    before, height = ask(driver, read), ask(driver, "charts.change.drawn.points.map((p) => p.py)")
    assert "all tasks pooled" in driver.find_element("id", "about").text
    driver.find_element("css selector", "#task option:nth-child(3)").click()
    assert "hella" in driver.find_element("id", "about").text
    after = ask(driver, read)
    assert after != before and ask(driver, "charts.change.drawn.points.map((p) => p.py)") != height
    driver.find_element("css selector", "#text option:nth-child(2)").click()
    assert ask(driver, read) != after and "code" in driver.find_element("id", "about").text


def test_folded_pictures_draw_when_opened_and_stay_where_they_can(opened):
    driver = opened("seven")
    ask(driver, "document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
    wait = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    driver.execute_async_script(f"{wait}.then(arguments[0])")
    driver.execute_script("pick(5)")
    assert ask(driver, "charts.direction.drawn.points.length") == 7
    assert ask(driver, "quants.every((q) => Math.abs(answers(q).net[0]) <= answers(q).volume + 1e-9)")
    outline = driver.find_element("css selector", "#direction .outline")
    assert outline.get_attribute("clip-path") == "url(#direction-possible)"
    assert len(driver.find_elements("css selector", "#law .point")) == 7


@pytest.mark.parametrize("chart", ["change", "distance"])
def test_names_cover_no_point_and_no_other_name(opened, chart):
    driver = opened("many")
    boxes = "[...document.querySelectorAll('#{} {}')].map((e) => e.getBoundingClientRect().toJSON())"
    names, dots = ask(driver, boxes.format(chart, ".name")), ask(driver, boxes.format(chart, ".point .shape"))
    assert len(names) >= 8 and len(dots) == 24
    for i, name in enumerate(names):
        assert not any(_meet(name, other) for other in [*names[:i], *dots])


def _meet(a, b):
    across = a["left"] < b["right"] - 0.5 and b["left"] < a["right"] - 0.5
    return across and a["top"] < b["bottom"] - 1 and b["top"] < a["bottom"] - 1


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_colours_follow_the_reader(opened, dark):
    driver = opened("seven", dark=dark)
    ground = ask(driver, "getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") != dark


def test_hostile_names_are_text(opened):
    driver = opened("hostile")
    driver.find_element("css selector", '#main [data-pick="3"]').click()
    assert ask(driver, "typeof hacked") == "undefined"
    assert HOSTILE in driver.find_element("id", "detail").text
    assert not driver.find_elements("css selector", "img")


def test_a_notebook_shows_the_page_in_a_frame_of_its_own(opened):
    driver = opened("notebook")
    driver.switch_to.frame(driver.find_element("tag name", "iframe"))
    assert driver.find_elements("css selector", "#answer .block") and driver.find_elements(
        "css selector", "#change .point"
    )
    driver.switch_to.default_content()
