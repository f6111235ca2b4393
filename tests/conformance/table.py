"""Writes docs/conformance.md from the goldens: python -m tests.conformance.table"""

import math
import pathlib
import re

from alignjax import compat
from tests.conformance import compare, golden, our_online_updates, our_updates, updates

FILE = pathlib.Path(__file__).parents[2] / "docs" / "conformance.md"
HEAD = f"""# Conformance

Each row compares a recipe of `alignjax.compat` with the code that it stands for, run by
`tests/conformance/record_*.py` on random ragged batches; `python -m tests.conformance.table` writes
this page from those recordings. Errors are the largest over all batches and options, rounded up to
a power of ten: of the value relative to its largest entry (at least 1), of the gradient with
respect to each differentiated input relative to its largest entry. Our side computes in fp32, the
reference in float64 where its code allows it. The tests ask for {compare.TOLERANCE:.0e} and
{compare.GRADIENT_TOLERANCE:.0e}. A named difference is meant to stay: a test fails if it vanishes.
"""
UPDATES = f"""## Whole updates

Three updates of one tiny Llama on the same answers and rewards, with old log-probabilities of the
start and another reference: by each release's own trainer from samples to optimizer
(`tests/conformance/record_updates_*.py`; stand-ins are the sampler and what one process on a CPU
lacks), and by our algorithm with its preset and `optim`. Those on pairs of samples (online DPO,
XPO, Nash-MD) have the same two answers in all three updates, whose rewards differ: on a tie TRL
takes the first answer for the better one, AlignJAX neither. The first error is the largest of a
parameter after any update, absolute; the second that of gradient norms and losses,
relative. The tests ask for {our_updates.TOLERANCE:.0e} and {our_updates.RELATIVE:.0e}.
"""


def page(*, measure: bool = True) -> str:
    """The page; without `measure` the errors are left out."""
    rows: dict[tuple[str, str, str], list[list[golden.Golden]]] = {}
    for goldens in golden.groups():
        first = goldens[0]
        rows.setdefault((first.preset, first.method, first.difference), []).append(goldens)
    parts = [HEAD]
    for preset in compat.PRESETS:
        mine = {key: groups for key, groups in rows.items() if key[0] == preset}
        if not mine:
            continue
        parts.append(f"## {preset}\n\nRecorded with {recorded_with(preset)}.\n")
        parts.append("| method | reference | cases | value error | gradient error | remark |")
        parts.append("|---|---|---|---|---|---|")
        parts += [row(*key[1:], groups, measure) for key, groups in sorted(mine.items())]
        parts.append("")
    return "\n".join([*parts, *updates_part(measure)])


def updates_part(measure: bool) -> list[str]:
    """Lines of the section on whole updates."""
    folders = (updates.FOLDER, updates.ONLINE)
    files = [file for folder in folders for file in sorted(folder.glob("*.npz"))]
    with_versions = {file.stem: updates.load(file)[1] for file in files}
    lines = [UPDATES]
    for preset, versions in with_versions.items():
        lines.append(f"- {preset}: {', '.join(f'{k} {v}' for k, v in sorted(versions.items()))}")
    lines += ["", "| preset | method | options | parameters | norms, losses | remark |"]
    lines.append("|---|---|---|---|---|---|")
    runs = {updates.FOLDER: our_updates.run, updates.ONLINE: our_online_updates.run}
    for one, run in [(one, run) for folder, run in runs.items() for one in updates.every(folder)]:
        errors = our_updates.errors(one, run(one)) if measure else None
        told = [[errors.params], [errors.norms, errors.losses]] if errors else [[], []]
        options = ", ".join(f"{k}={v}" for k, v in one.options.items())
        parts = f", {one.micro_batches} micro-batches" if one.micro_batches > 1 else ""
        numbers = " | ".join(rounded(each) for each in told)
        remark = f"differs: {one.difference}" if one.difference else ""
        lines.append(
            f"| {one.preset} | {one.algorithm} | {options}{parts} | {numbers} | {remark} |"
        )
    return [*lines, ""]


def recorded_with(preset: str) -> str:
    """Versions of the packages behind a preset's goldens."""
    versions: dict[str, str] = {}
    for file in golden.files():
        goldens, recorded = golden.load(file)
        if goldens[0].preset == preset:
            versions |= recorded
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))


def row(method: str, difference: str, groups: list[list[golden.Golden]], measure: bool) -> str:
    preset = groups[0][0].preset
    errors = [compare.errors(goldens) for goldens in groups] if measure else []
    value = rounded([e.value for e in errors])
    gradient = rounded([e.gradient for e in errors if not math.isnan(e.gradient)])
    source = compat.recipe(preset, method).source
    cases = sum(len(goldens) for goldens in groups)
    remark = f"differs: {difference}" if difference else ""
    return f"| {method} | {source} | {cases} | {value} | {gradient} | {remark} |"


def rounded(errors: list[float]) -> str:
    """The largest, rounded up to a power of ten."""
    worst = max(errors, default=math.nan)
    if math.isnan(worst) or math.isinf(worst):
        return "-" if math.isnan(worst) else "inf"
    return "0" if worst == 0 else f"{10.0 ** math.ceil(math.log10(worst)):.0e}"


def without_errors(text: str) -> str:
    return re.sub(r"\| (-|0|inf|\de[+-]\d+) \| (-|0|inf|\de[+-]\d+) \|", "| |", text)


if __name__ == "__main__":
    FILE.write_text(page())
    print(FILE)
