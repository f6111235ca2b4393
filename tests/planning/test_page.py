"""docs/tpu.md is what its recordings say."""

import importlib

from tests.commands import cli
from tests.planning import table


def missing(plans: list[dict]) -> list[str]:
    """The presets for slices that have no recorded plan."""
    known = {plan["config"] for plan in plans}
    found = []
    for file in sorted((cli.ROOT / "experiments").glob("scale_*.py")):
        module = importlib.import_module(f"alignjax.experiments.{file.stem}")
        for name, chosen in module.SLICES.items():
            if name != "gpu8":
                found += [f"{file.stem}:{method}-{name}" for method in chosen.methods]
    return sorted(set(found) - known)


def test_the_page_is_the_recordings():
    assert table.PAGE.read_text() == table.page()


# Their plans wait to be recorded, hours of the compiler; `alignjax plan` makes them all the same.
UNRECORDED = [
    "scale_70b:grpo-v5p512",
    "scale_8b:grpo-v5e256",
    "scale_8b:grpo-v6e256",
]


def test_every_preset_for_a_slice_has_a_plan():
    assert missing(table.load()) == UNRECORDED


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
