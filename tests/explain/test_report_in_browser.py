"""The report in Chromium: what clicks and keys do, that it looks at nothing but its own file, and that it fits."""

from __future__ import annotations  # playwright need not be there

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cifar_lit.explain.report import Report, choose_shown, render
from cifar_lit.explain.scoring import Predictions

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

sync_playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").sync_playwright
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")

EVIL = '</script><img src=x onerror="document.title = 1">'
NAMES = ("cat", "dog", EVIL)
CONFUSION = np.array([[20, 70, 3], [5, 30, 2], [4, 0, 9]])
DARK = "rgb(18, 20, 23)"


def some_report() -> Report:
    """Image i is of grey i; the map for its predicted class is 0, for its true class 1."""
    labels, said = (np.repeat(axis.ravel(), CONFUSION.ravel()) for axis in np.indices(CONFUSION.shape))
    rng = np.random.default_rng(0)
    logits = rng.uniform(size=(len(labels), 3)) + rng.uniform(2, 5, (len(labels), 1)) * np.eye(3)[said]
    predictions = Predictions(labels, logits.astype(np.float32), NAMES)
    shown = choose_shown(predictions, 3000)
    pixels = np.broadcast_to(np.arange(len(labels), dtype=np.uint8)[:, None, None, None], (len(labels), 32, 32, 3))
    maps = np.zeros((len(shown), 32, 32), np.float32)
    curves = {"train/loss": [(1, 2.0), (2, 1.0), (3, 0.5)], "val/loss": [(1, 3.0), (3, 1.5)]}
    provenance = {"commit": "0123456789abcdef" * 20}
    metrics = {"accuracy": float(predictions.correct.mean())}
    return Report("resnet20", predictions, pixels, shown, maps, maps + 1, metrics, provenance, curves, None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render(some_report()), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The report, opened. However it is used, it may neither complain nor ask for any other file."""
    context = browser.new_context(viewport={"width": 1400, "height": 900}, reduced_motion="reduce")
    requests: list[str] = []
    complaints: list[str] = []
    context.on("request", lambda request: requests.append(request.url))
    context.on("console", lambda message: complaints.append(message.text))
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    page = context.new_page()
    page.goto(address)
    yield page
    context.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:") and url.partition("#")[0] != address] == []
    assert address in requests


def cell(page: Page, true: int, predicted: int) -> Locator:
    return page.locator(f".matrix td[data-pair='{true},{predicted}'] button")


def open_pairs(page: Page) -> list[str]:
    """True and predicted class of every open card."""
    pairs: list[str] = page.locator("#cards > li").evaluate_all("cards => cards.map(card => card.dataset.pair)")
    return pairs


def status(page: Page) -> str:
    return page.get_by_role("status").inner_text()


def test_a_cell_leaves_the_images_of_its_pair_and_again_shows_all(page: Page) -> None:
    assert len(set(open_pairs(page))) > 1
    cell(page, 1, 0).click()
    assert open_pairs(page) == ["1,0"] * 5
    assert cell(page, 1, 0).get_attribute("aria-pressed") == "true"
    assert status(page) == "5 errors: true dog, predicted cat."
    assert page.url.endswith("#true=dog&predicted=cat")
    cell(page, 0, 2).click()
    assert open_pairs(page) == ["0,2"] * 3
    assert cell(page, 1, 0).get_attribute("aria-pressed") == "false"
    cell(page, 0, 2).click()
    assert len(set(open_pairs(page))) > 1
    assert page.url.endswith("#")
    page.get_by_role("button", name="cat predicted as dog 70").click()
    assert set(open_pairs(page)) == {"0,1"}
    page.get_by_role("button", name="Show all").click()
    assert status(page) == "84 errors. The first 30 are shown."


def test_keys_do_what_the_mouse_does(page: Page) -> None:
    cell(page, 0, 0).focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowLeft", "Enter"):
        page.keyboard.press(key)
    assert open_pairs(page) == ["1,0"] * 5
    page.keyboard.press("Space")
    assert len(set(open_pairs(page))) > 1
    page.keyboard.press("End")
    page.keyboard.press("Space")
    assert open_pairs(page) == ["1,2"] * 2
    # The matrix is one stop of the Tab key.
    assert page.locator(".matrix [tabindex='0']").count() == 1
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('.matrix')") is None
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.parentElement.dataset.pair") == "1,2"


def test_correct_images_are_said_not_to_be_in_the_gallery(page: Page) -> None:
    cell(page, 1, 1).click()
    assert status(page) == "30 images of dog classified right. Correct images are not in the gallery."
    assert open_pairs(page) == []


def test_the_address_holds_the_filter(page: Page, address: str) -> None:
    page.goto("about:blank")
    page.goto(f"{address}#true=cat")
    assert {pair[0] for pair in open_pairs(page)} == {"0"}
    page.get_by_label("Predicted class").select_option(EVIL)
    assert open_pairs(page) == ["0,2"] * 3
    page.go_back()
    assert page.get_by_label("Predicted class").input_value() == "-1"
    assert len(open_pairs(page)) == 30
    page.goto("about:blank")
    page.goto(f"{address}#errors")
    assert len(open_pairs(page)) == 30


def test_the_gallery_opens_page_by_page_in_the_order_that_is_asked_for(page: Page) -> None:
    losses = "cards => cards.map(card => Number(card.querySelector('.facts').textContent.match(/loss ([0-9.]+)/)[1]))"
    assert len(open_pairs(page)) == 30
    page.get_by_role("button", name="Show 30 more of 54").click()
    page.get_by_role("button", name="Show 24 more of 24").click()
    assert page.locator("#more").is_hidden()
    shown = page.locator("#cards > li").evaluate_all(losses)
    assert len(shown) == 84
    assert shown == sorted(shown, reverse=True)
    page.get_by_label("Order", exact=True).select_option("By predicted class")
    predicted = [pair[-1] for pair in open_pairs(page)]
    assert predicted == sorted(predicted)


def test_a_card_shows_its_image_and_where_the_network_looked(page: Page) -> None:
    cell(page, 2, 0).click()
    card = page.locator("#cards > li").first
    page.wait_for_function(
        "[...document.querySelectorAll('#cards > li:first-child canvas')]"
        ".every(canvas => canvas.getContext('2d').getImageData(16, 16, 1, 1).data[3])"
    )
    middle = "all => all.map(canvas => [...canvas.getContext('2d').getImageData(16, 16, 1, 1).data].slice(0, 3))"
    image, predicted, true = card.locator("canvas").evaluate_all(middle)
    grey = int(card.locator(".facts").inner_text().rpartition(" ")[2])
    assert max(abs(value - grey) for value in image) <= 3
    # Half the image, half the ends of the colour map: dark blue for 0, dark red for 1.
    for found, colour in ((predicted, (48, 18, 59)), (true, (122, 4, 3))):
        assert max(abs(value - (grey + end) / 2) for value, end in zip(found, colour, strict=True)) <= 4
    labels = card.get_by_role("img").evaluate_all("all => all.map(canvas => canvas.ariaLabel)")
    assert labels[0] == f"Image {grey}, of class {EVIL}"
    assert "cat, the class that it predicted" in labels[1]
    assert card.locator(".top .name").first.inner_text() == "cat"


def test_cards_say_what_the_predictions_are(page: Page) -> None:
    predictions = some_report().predictions
    cell(page, 0, 1).click()
    for card in page.locator("#cards > li").all():
        loss, _, number = card.locator(".facts").inner_text().removeprefix("loss ").partition(", image ")
        probabilities = predictions.probabilities[int(number)]
        assert float(loss) == pytest.approx(predictions.losses[int(number)], abs=0.005001)
        assert card.locator(".verdict b").all_inner_texts() == ["cat", "dog"]
        assert card.locator(".top .name").first.inner_text() == "dog"
        shown = card.locator(".top li span:last-child").all_inner_texts()
        for text, share in zip(shown, sorted(probabilities, reverse=True), strict=True):
            assert text == "<0.1 %" if share < 0.0005 else float(text[:-2]) == pytest.approx(100 * share, abs=0.05001)


@pytest.mark.parametrize(("heading", "column"), [("recall", 1), ("images", 4), ("class", 0)])
def test_tables_sort_both_ways(page: Page, heading: str, column: int) -> None:
    cells = f"rows => rows.map(row => row.cells[{column}].dataset.value ?? row.cells[{column}].textContent)"
    rows = page.locator(".sortable tbody tr")
    button = page.locator(".sortable").get_by_role("button", name=heading)
    for direction in ("ascending", "descending"):
        button.click()
        assert page.locator(".sortable th[aria-sort]").get_attribute("aria-sort") == direction
        values = rows.evaluate_all(cells)
        numbers = [float(value) for value in values] if column else values
        assert numbers == sorted(numbers, reverse=direction == "descending")


def test_curves_are_read_with_keys_and_mouse(page: Page) -> None:
    slider = page.get_by_role("slider", name="loss by epoch")
    values = page.locator(".chart .value")
    assert values.all_inner_texts() == ["0.5", "1.5"]
    slider.press("ArrowLeft")
    assert slider.get_attribute("aria-valuetext") == "2: train 1, val 3"
    slider.hover(position={"x": 2, "y": 50})
    assert values.all_inner_texts() == ["2", "3"]


@pytest.mark.parametrize("width", [360, 1400])
def test_the_page_fits(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 740})
    page.locator("summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_printed_page_has_whole_tables(page: Page) -> None:
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 without its margins
    cut = "boxes => boxes.filter(b => b.scrollHeight > b.clientHeight + 1 || b.scrollWidth > b.clientWidth + 1).length"
    assert page.eval_on_selector_all(".scroll", cut) == 0
    assert page.evaluate("document.documentElement.scrollWidth") == 718


def test_a_page_within_another_one_has_its_filter(browser: Browser) -> None:
    outer = browser.new_page()
    outer.set_content("<iframe width=1400 height=900></iframe>")
    outer.eval_on_selector("iframe", "(frame, html) => { frame.srcdoc = html; }", render(some_report()))
    frame = outer.frame_locator("iframe")
    frame.locator("[data-pair='0,1'] button").first.click()
    assert (frame.locator("#status").text_content() or "").startswith("70 errors: true cat, predicted dog.")
    outer.close()


def test_dark_and_light_are_those_of_the_reader(page: Page) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(colour) != DARK
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(colour) == DARK


def test_headings_landmarks_and_names_are_in_order(page: Page) -> None:
    levels = page.locator("h1, h2, h3").evaluate_all("all => all.map(heading => Number(heading.tagName[1]))")
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    sections = ["Result", "Learning", "Classes", "Calibration", "Errors", "Most sure against their label"]
    assert page.locator("h2").all_inner_texts() == sections
    for role in ("banner", "navigation", "main", "contentinfo"):
        assert page.get_by_role(role).count() == 1
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    assert page.title() == "resnet20: report"  # and not what the name of a class would make of it


def test_a_page_of_very_many_classes_has_its_gallery_and_no_matrix(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cifar_lit.explain.report.MATRIX", 2)
    (tmp_path / "report.html").write_text(render(some_report()), encoding="utf-8")
    page = browser.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((tmp_path / "report.html").as_uri())
    assert page.locator(".matrix").count() == 0
    assert "Of 3 classes it is in confusion.png" in page.locator(".overview").inner_text()
    page.locator(".pairs button").first.click()
    assert page.evaluate("location.hash") == "#true=cat&predicted=dog"
    assert page.locator("#cards li.card").count() > 0
    page.close()
    assert complaints == []
