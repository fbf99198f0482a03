"""The report in a real browser: it opens offline, shows all its pictures, and fits a narrow screen."""

import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("playwright", reason="playwright is needed to open the report in a browser")

from reports import contrast, make_evaluation, make_model

from otrain_train.history import Course
from otrain_train.report import write_report

WIDTHS = (400, 1200)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report with everything in it, on a model with a long name and cutouts with long ones."""
    folder = tmp_path_factory.mktemp("report")
    scorer = make_model(folder, planes=("SCI", "REF", "DIFF"), size=64)
    course = [{"epoch": i + 1.0, "loss": 1 / (i + 1), "accuracy": 0.8, "holdout_loss": 0.5, "holdout_accuracy": 0.7}
              for i in range(3)]  # fmt: skip
    evaluation = make_evaluation(scorer, noise=0.4)
    evaluation.datacube.files[:] = "a_very_long_folder_without_any_space_to_break_it_at/" * 3
    options = {"network": folder / "reported.keras", "courses": [Course(0, course, 2)]}
    run = {"settings": {"network": "lite"}, "sha256": "0123456789abcdef" * 8}
    return write_report(folder / "report.html", evaluation, title="A" * 90, run=run, **options)


@pytest.fixture(scope="module", params=WIDTHS)
def opened(request, report, browser):
    """The report at a width, offline, with what the browser had to say and what it asked for."""
    context = browser.new_context(viewport={"width": request.param, "height": 800}, offline=True)
    page, complaints, asked = context.new_page(), [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda failed: complaints.append(failed.url))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri(), wait_until="load")
    yield page, request.param, complaints, asked
    context.close()


def test_it_asks_for_nothing_and_the_browser_does_not_complain(opened, report):
    _, _, complaints, asked = opened
    assert complaints == []
    assert [url for url in asked if not url.startswith("data:image/png;base64,")] == [report.as_uri()]


def test_all_pictures_are_shown(opened):
    page, width, _, _ = opened
    pictures = page.evaluate("[...document.images].map(i => [i.naturalWidth, i.clientWidth, i.clientHeight, i.alt])")
    assert len(pictures) > 50
    for natural, across, high, alt in pictures:
        assert natural > 0, alt
        assert min(across, high) > 20, alt
        assert across <= max(width, 640), alt


def test_nothing_runs_over_the_side(opened):
    page, width, _, _ = opened
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.documentElement.clientWidth") >= width - 20
    beyond = """[...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll") &&
        e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName)"""
    assert page.evaluate(beyond) == []


def test_the_contents_lead_to_the_sections(opened):
    page, _, _, _ = opened
    assert page.locator("h1").count() == 1
    links = page.locator("nav a")
    assert links.count() == page.locator("h2").count() == 9
    for i in range(links.count()):
        target = page.locator(f"section{links.nth(i).get_attribute('href')}")
        assert target.locator("h2").inner_text() == links.nth(i).inner_text()


def test_the_style_is_in_force(opened):
    page, _, _, _ = opened
    assert page.evaluate("getComputedStyle(document.querySelector('.tiles')).display") == "grid"
    assert page.evaluate("getComputedStyle(document.querySelector('.pictures img')).imageRendering") == "pixelated"


def test_letters_stand_out_in_light_and_dark(report, browser):
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(report.as_uri())
        paper, ink, soft = page.evaluate(
            """[["body", "backgroundColor"], ["body", "color"], [".meta", "color"]].map(
                ([e, k]) => getComputedStyle(document.querySelector(e))[k].match(/\\d+/g).slice(0, 3).map(Number))"""
        )
        assert contrast(paper, ink) > 10, scheme
        assert contrast(paper, soft) > 4.5, scheme
        assert (sum(paper) < 382) == (scheme == "dark")
        page.close()
