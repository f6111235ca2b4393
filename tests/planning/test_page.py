"""docs/tpu.md is what its recordings say."""

from tests.planning import table


def test_the_page_is_the_recordings():
    assert table.PAGE.read_text() == table.page()


def test_recorded_plans_fit_and_agree_with_the_formulas():
    plans = table.load()
    assert plans
    for plan in plans:
        assert plan["fits"], plan["config"]
        assert plan["versions"].keys() >= {"jax", "libtpu"}
        for row in plan["programs"]:
            if row["work"] and row["work"]["run"]:
                ratio = row["flops"] * plan["devices"] / row["work"]["run"]
                assert abs(ratio - 1) < 0.03, (plan["config"], row["name"])
