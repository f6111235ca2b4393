"""docs/papers.md names every loss, and nothing that does not exist."""

import importlib
import pathlib
import re

import pytest

from alignjax import losses

ROOT = pathlib.Path(__file__).parents[1]
COLUMNS = ("method", "paper", "arXiv", "equation", "function", "experiment")
CONTAINERS = {"TokenStats"}  # what a function returns
NO_PAPER = {
    "token_logprobs", "token_stats", "logprobs_with_tail", "top_tokens", "score_regression",
    "score_sum", "score_mean", "bnpo", "with_tail",
}  # fmt: skip


def rows() -> list[dict[str, str]]:
    """The rows of all tables."""
    found = []
    for line in (ROOT / "docs/papers.md").read_text().splitlines():
        if not line.startswith("|") or set(line) <= set("|-"):
            continue
        cells = tuple(cell.strip() for cell in line.strip("|").split("|"))
        assert len(cells) == len(COLUMNS), line
        if cells != COLUMNS:
            found.append(dict(zip(COLUMNS, cells, strict=True)))
    return found


ROWS = rows()


def functions(row: dict[str, str]) -> list[str]:
    names = re.findall(r"`([\w.]+)`", row["function"])
    assert ", ".join(f"`{name}`" for name in names) == row["function"], row
    return names


def test_every_public_function_is_in_the_table():
    named = {name for row in ROWS for name in functions(row)}
    listed = {name.removeprefix("losses.") for name in named if name.startswith("losses.")}
    assert listed == set(losses.__all__) - CONTAINERS


@pytest.mark.parametrize("name", sorted({name for row in ROWS for name in functions(row)}))
def test_what_the_table_names_exists(name):
    module, _, last = f"alignjax.{name}".rpartition(".")
    found = importlib.import_module(module)
    assert hasattr(found, last) or importlib.import_module(f"{module}.{last}")


def test_experiments_exist():
    for row in ROWS:
        if row["experiment"] not in ("-", "all"):
            for name in re.findall(r"`([^`]+)`", row["experiment"]):
                assert (ROOT / "experiments" / name).is_file(), row


def test_papers_have_a_year_and_identifiers_their_form():
    for row in ROWS:
        if row["paper"] == "-":
            assert {n.removeprefix("losses.") for n in functions(row)} <= NO_PAPER, row
            assert row["arXiv"] == row["equation"] == "-", row
        else:
            assert all(re.search(r"\b(19|20)\d\d\b", p) for p in row["paper"].split(";")), row
        assert re.fullmatch(r"-|\d{4}\.\d{5}(, \d{4}\.\d{5})*", row["arXiv"]), row


def test_docstrings_name_the_same_papers():
    """An arXiv number in a loss's docstring is that of its row."""
    listed = {name: set() for row in ROWS for name in functions(row)}
    for row in ROWS:
        for name in functions(row):
            listed[name] |= set(row["arXiv"].split(", "))
    for name in set(losses.__all__) - CONTAINERS:
        cited = set(re.findall(r"\b\d{4}\.\d{5}\b", getattr(losses, name).__doc__ or ""))
        assert cited <= listed[f"losses.{name}"], name
