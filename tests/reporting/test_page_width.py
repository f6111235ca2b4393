"""The page in a real browser: every column of the widest table is in sight at 1,200 pixels."""

import pytest

from alignjax.reporting import report
from tests.reporting import test_report
from tests.web.conftest import chromium  # noqa: F401  (a fixture)

LABELS = (
    "gold reward, reward units", "KL to SFT, nats a completion",
    "efficiency, share of the exact gain", "gain, share of SFT's own optimum",
    "RM score, reward units", "length, tokens", "illegal bigrams, share", "excess, nats a token",
)  # fmt: skip


@pytest.mark.browser
@pytest.mark.slow
def test_all_columns_are_visible(tmp_path, chromium):  # noqa: F811
    results = test_report._results()
    results["columns"] = [{"key": f"k{i}", "label": name} for i, name in enumerate(LABELS)]
    for row in results["rows"]:
        cell = {"value": -12.34, "se": 0.05, "expected": -12.3}
        row["metrics"] = {f"k{i}": cell for i in range(len(LABELS))}
    folder = test_report._folder(tmp_path, results)
    report.write(folder)
    page = chromium.new_page(viewport={"width": 1200, "height": 800})
    page.goto(f"file://{folder}/report.html")
    heads = page.locator("thead th")
    assert heads.count() == len(LABELS) + 1
    box = page.locator(".scroll:has(thead)").first.evaluate(
        "e => [e.scrollWidth, e.clientWidth, e.getBoundingClientRect().right]"
    )
    assert box[0] <= box[1]
    assert box[2] <= 1200
    page.close()
