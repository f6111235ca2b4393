"""What `alignjax methods` prints: which methods there are, and how presets differ on one."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from alignjax import compat
from alignjax.compat import vocabulary
from alignjax.core import shapes

# Parts whose short name says little by itself, in words.
WORDS: Mapping[str, Mapping[str, str]] = {
    "score": {
        "": "none",
        "answer and next slot": "the answer's tokens and the slot after them",
        "head": "the score of a model's head",
        "mean": "mean of {} over an answer's tokens",
        "response": "ratio of whole responses",
        "sequence": "ratio of whole responses, to the power 1 / length",
        "sequence_token": "ratio of whole responses, to the power 1 / length, with the gradient of "
        "each token",
        "sum": "sum of {} over an answer's tokens",
        "sum or ratio": "sum of {} over an answer's tokens, or of log-probabilities where there is "
        "no reference",
        "sum/length": "mean of {} over an answer's tokens, the divergence taken of their sum",
        "token": "ratio of each token",
        "tokens": "log-probability of each token",
    },
    "divergence": {"": "none", "power": "(1 - exp(-alpha score)) / alpha"},
    "weight": {
        "": "none",
        "wpo": "WPO's, if asked",
        "wpo_at_most_1": "WPO's, cut at 1, if asked",
        "udm": "UDM's, of undesirable answers, if asked",
        "sampler_gate": "ratio of trainer to sampler, gated, with correction",
        "token_filter": "0 or 1: the top entropy_share of tokens, rows near the policy",
        "token_filter_and_sampler": "0 or 1: the top entropy_share of tokens, rows near the "
        "policy; times the ratio of trainer to sampler",
        "token_weights": "token_weights of the arrays",
    },
    "reduction": {
        "": "none",
        "every_row_mean": "mean over all rows, those without a token too",
        "group_mean": "mean over all tokens of a prompt's samples, then over prompts",
        "row_fixed": "sum over each row's tokens divided by a constant, then mean over rows",
        "row_mean": "mean over each row's tokens, then over rows",
        "row_sum": "sum over each row's tokens, then mean over rows",
        "token_mean": "mean over all tokens",
        "whitening": "to mean 0 and variance 1 over all tokens",
        "whitening_of_samples": "to mean 0 and variance 1 over all samples",
        "whitening_over_tokens": "at each token of a sample, to mean 0 and variance 1 (over n - 1)",
        "whitening_unbiased": "to mean 0 and variance 1 (over n - 1) over all tokens",
    },
}
PARTS = ("score", "divergence", "divergences", "link", "weight", "reduction", "terms")
Presets = Mapping[str, compat.Recipe]


def all_methods() -> list[str]:
    """The names of all presets, once each."""
    return sorted({name for recipes in compat.PRESETS.values() for name in recipes})


def presets_of(method: str, table: str | None = None, preset: str | None = None) -> Presets:
    """{preset: recipe} of a method, in the presets that have it.

    Raises:
      ValueError: no such method, table or preset, or none of that name there.
    """
    _check(table, preset)
    known = {name: recipes[method] for name, recipes in compat.PRESETS.items() if method in recipes}
    if not known:
        plain = method.lower().replace("-", "_")
        close = difflib.get_close_matches(plain, all_methods(), n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"--name must be a method; got {method!r}.{hint} alignjax methods lists them."
        )
    fitting = {
        name: recipe
        for name, recipe in known.items()
        if (table is None or recipe.fits(table)) and preset in (None, name)
    }
    if not fitting:
        places = ", ".join(f"{name} (on {recipe.table})" for name, recipe in known.items())
        raise ValueError(f"--name must be a method there; got {method!r}, which is in {places}.")
    return fitting


def _check(table: str | None, preset: str | None) -> None:
    if table is not None:
        shapes.check_choice("--table", table, vocabulary.TABLES)
    if preset is not None:
        shapes.check_choice("--preset", preset, compat.PRESETS)


# --- all methods ---
def overview(
    table: str | None = None, preset: str | None = None
) -> dict[str, list[dict[str, Any]]]:
    """{table: [{name, paper, presets}]}, of what trains on such rows; tables without any left out.

    paper: the paper's equation, or where the first preset computes it.

    Raises:
      ValueError: no such table or preset.
    """
    _check(table, preset)
    groups: dict[str, list[dict[str, Any]]] = {}
    for kind in vocabulary.TABLES if table is None else (table,):
        rows = []
        for method in all_methods():
            recipes = {
                name: recipes[method]
                for name, recipes in compat.PRESETS.items()
                if method in recipes and recipes[method].fits(kind) and preset in (None, name)
            }
            if recipes:
                first = recipes.get("paper", next(iter(recipes.values())))
                rows.append({"name": method, "paper": first.source, "presets": list(recipes)})
        if rows:
            groups[kind] = rows
    return groups


def overview_text(table: str | None = None, preset: str | None = None) -> str:
    """`overview` as text: a block for each kind of rows, a line for each method."""
    blocks = []
    for kind, rows in overview(table, preset).items():
        width = max(len(row["name"]) for row in rows)
        lines = [f"{kind}: {vocabulary.TABLES[kind]}"]
        for row in rows:
            places = ", ".join(row["presets"])
            lines.append(f"  {row['name']:<{width}}  {row['paper']}  [{places}]")
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, "alignjax methods NAME tells how presets compute one."])


# --- one method ---
def detail(method: str, table: str | None = None, preset: str | None = None) -> dict[str, Any]:
    """{name, presets: {preset: the recipe's parts}, differences: [a sentence each]}.

    Raises:
      ValueError: as `presets_of`.
    """
    recipes = presets_of(method, table, preset)
    return {
        "name": method,
        "presets": {name: as_data(recipe) for name, recipe in recipes.items()},
        "differences": differences(recipes),
    }


def as_data(recipe: compat.Recipe) -> dict[str, Any]:
    """The recipe as what JSON can hold."""
    fields = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe)}
    del fields["name"]
    sets = {name: sorted(fields[name]) for name in ("reads", "optional")}
    return {**fields, **sets, "defaults": dict(recipe.defaults), "needs": sorted(recipe.needs())}


def detail_text(method: str, table: str | None = None, preset: str | None = None) -> str:
    """`detail` as text: a block for each preset, then how they differ."""
    recipes = presets_of(method, table, preset)
    blocks = [method]
    for name, recipe in recipes.items():
        rows = {
            "table": f"{recipe.table}: {vocabulary.TABLES[recipe.table]}",
            "formula": recipe.formula,
            "source": recipe.source,
            **{part: in_words(recipe, part) for part in PARTS if getattr(recipe, part)},
            "defaults": ", ".join(f"{k}={v}" for k, v in recipe.defaults.items()) or "none",
            "reads": reads(recipe),
        }
        if recipe.coupled:
            rows["coupled"] = "rows depend on one another: not exact under micro-batches"
        blocks.append("\n".join([name, *(f"  {k:<11} {v}" for k, v in rows.items())]))
    if len(recipes) > 1:
        lines = differences(recipes) or ["none but their sources"]
        blocks.append("\n".join(["differences", *(f"  {line}" for line in lines)]))
    return "\n\n".join(blocks)


def in_words(recipe: compat.Recipe, part: str) -> str:
    """A part of the recipe, spelled out where its short name says little."""
    value = getattr(recipe, part)
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    quantity = "log-ratios" if "reference" in recipe.reads else "log-probabilities"
    return WORDS.get(part, {}).get(value, value.replace("_", " ") or "none").format(quantity)


def reads(recipe: compat.Recipe) -> str:
    """What it reads, with the options that must be on for it, and what may be absent."""
    words = []
    for read in sorted(recipe.reads):
        switches = [s for s in vocabulary.SWITCHES.get(read, ()) if s in recipe.defaults]
        remark = f" (with {' or '.join(switches)})" if switches else ""
        remark = " (if there)" if read in recipe.optional else remark
        if read == "mismatched":
            remark = " (or reference_point)"
        words.append(f"{read}{remark}")
    return ", ".join(words) or "policy log-probabilities alone"


def differences(recipes: Presets) -> list[str]:
    """A line for each part and default that presets do not share: its values, and whose."""
    lines = []
    for part in PARTS:
        lines += _unlike(part, {name: in_words(recipe, part) for name, recipe in recipes.items()})
    lines += _unlike("reads", {name: reads(recipe) for name, recipe in recipes.items()})
    options = dict.fromkeys(option for recipe in recipes.values() for option in recipe.defaults)
    partial: dict[str, list[str]] = {}
    for option in options:
        values = {n: f"{r.defaults[option]}" for n, r in recipes.items() if option in r.defaults}
        lines += _unlike(f"default {option}", values)
        if len(values) < len(recipes):
            partial.setdefault(_names(values), []).append(option)
    return lines + [f"options of {names} alone: {_names(o)}" for names, o in partial.items()]


def _unlike(what: str, values: Mapping[str, str]) -> list[str]:
    """["what: value (presets); ..."], or [] where all are alike."""
    owners: dict[str, list[str]] = {}
    for name, value in values.items():
        owners.setdefault(value, []).append(name)
    if len(owners) == 1:
        return []
    return [f"{what}: " + "; ".join(f"{value} ({_names(o)})" for value, o in owners.items())]


def _names(words: Iterable[str]) -> str:
    return ", ".join(words)
