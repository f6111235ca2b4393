"""What `alignjax methods` tells: every method, and how presets differ on one."""

import json

import pytest

from alignjax import compat
from alignjax.compat import listing


def test_every_recipe_is_listed_under_its_rows():
    groups = listing.overview()
    listed = {
        (preset, row["name"])
        for rows in groups.values()
        for row in rows
        for preset in row["presets"]
    }
    assert listed == {(p, m) for p, recipes in compat.PRESETS.items() for m in recipes}
    for kind, rows in groups.items():
        for row in rows:
            assert all(compat.PRESETS[p][row["name"]].fits(kind) for p in row["presets"])
    (ipo,) = [row for row in groups["pairs"] if row["name"] == "ipo"]
    assert ipo["paper"].startswith("Azar et al. 2023")
    assert ipo["presets"] == ["openrlhf-0.11", "paper", "trl-0.28", "trl-1.16"]


def test_the_overview_is_of_one_kind_of_rows_or_preset_if_asked():
    assert list(listing.overview("unpaired")) == ["unpaired"]
    names = {row["name"] for rows in listing.overview(None, "trl-1.12").values() for row in rows}
    assert names == compat.PRESETS["trl-1.12"].keys()
    text = listing.overview_text("unpaired", "trl-1.16")
    assert text.splitlines()[0] == "unpaired: single answers, desirable or not"
    assert [line.split()[0] for line in text.splitlines()[1:3]] == ["apo_zero_unpaired", "kto"]
    assert "bco" not in text


def test_the_text_of_ipo_names_sums_and_means():
    text = listing.detail_text("ipo")
    (line,) = [line.strip() for line in text.splitlines() if line.strip().startswith("score: ")]
    parts = dict(
        part.removesuffix(")").rsplit(" (", 1)[::-1]
        for part in line.removeprefix("score: ").split("; ")
    )
    assert parts["openrlhf-0.11, paper"] == "sum of log-ratios over an answer's tokens"
    assert parts["trl-1.16"].startswith("mean of log-ratios over an answer's tokens")
    assert parts["trl-0.28"] == "mean of log-ratios over an answer's tokens"
    assert "default alpha: 0.5 (paper, trl-1.16); 1.0 (trl-0.28)" in text
    assert "options of openrlhf-0.11, trl-0.28 alone: nll_weight" in text
    for preset in ("openrlhf-0.11", "paper", "trl-0.28", "trl-1.16"):
        assert compat.PRESETS[preset]["ipo"].formula in text
        assert compat.PRESETS[preset]["ipo"].source in text
    assert "sum_p2 (with wpo)" in text


def test_presets_that_agree_are_said_to():
    assert listing.differences(listing.presets_of("kto")) == []
    assert "none but their sources" in listing.detail_text("kto")
    assert "differences" not in listing.detail_text("kto", preset="paper")
    assert "mismatched (or reference_point)" in listing.detail_text("kto")
    assert "not exact under micro-batches" in listing.detail_text("aot")


@pytest.mark.parametrize("method", listing.all_methods())
def test_every_method_has_a_text_and_json(method):
    text = listing.detail_text(method)
    data = json.loads(json.dumps(listing.detail(method)))
    assert data["presets"].keys() == {p for p, r in compat.PRESETS.items() if method in r}
    for preset, recipe in data["presets"].items():
        known = compat.PRESETS[preset][method]
        assert recipe["formula"] == known.formula
        assert recipe["needs"] == sorted(known.needs())
        assert all(f"{option}=" in text for option in recipe["defaults"])
        assert f"\n{preset}\n" in text


def test_scores_of_answers_are_spelled_out():
    for recipes in compat.PRESETS.values():
        for recipe in recipes.values():
            if recipe.table in ("pairs", "unpaired"):
                assert recipe.score in listing.WORDS["score"]
            assert "{" not in "".join(listing.in_words(recipe, part) for part in listing.PARTS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ipoo",), "^--name must be a method; got 'ipoo'. Did you mean 'ipo'. alignjax methods"),
        (("ipo", "pair"), r"^--table must be one of .*Did you mean 'pairs'"),
        (("ipo", None, "trl-1.61"), r"^--preset must be one of .*Did you mean 'trl-1.16'"),
        (("ipo", "unpaired"), r"got 'ipo', which is in openrlhf-0.11 \(on pairs\), paper"),
        (("kto", None, "trl-1.12"), r"got 'kto', which is in paper \(on unpaired\), trl-1.16"),
    ],
)
def test_what_is_unknown_is_answered_with_the_nearest(arguments, message):
    with pytest.raises(ValueError, match=message) as raised:
        listing.detail(*arguments)
    assert len(str(raised.value)) < 200
