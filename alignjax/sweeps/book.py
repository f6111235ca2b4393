"""The page of ablations: what each committed sweep claims, its verdict, numbers, command and cost.

A folder of sweeps' report.json and pictures is all that it is made of: `report --book` puts a sweep
there and writes the page, which a test makes again and compares.
"""

import math
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from alignjax.core import untrusted
from alignjax.reporting import tables
from alignjax.sweeps import judged, record, report

HEAD = """# Ablations

What papers claim, tested in worlds of this package whose truth is known. Written by
`alignjax report --workdir=SWEEP --book=docs/ablations`, from the committed `docs/ablations/*.json`:
every number below is of the runs named there. How sweeps are run and judged: `docs/sweeps.md`.
"""
KNOWN = """
Three more are not measured by a sweep yet. "DPO beats PPO on the true reward" (Rafailov et al.
2023, figure 2): a gate of `experiments/lifecycle.py` asks for the reverse at equal KL.
"Conservative DPO undoes label noise": it bounds the margin, and only robust DPO's loss is that of
clean labels (`tests/losses/test_loss_truths.py`, E6); `experiments/ablation_noise.py` compares
them, without recorded numbers so far. "Clipping the value loss helps PPO": no experiment here
tests it.
"""


def add(sweep: pathlib.Path, folder: pathlib.Path) -> str:
    """Puts a finished sweep's report and picture into the folder; the name that it has there."""
    content = untrusted.read_object(sweep / report.JSON, untrusted.RECORD)
    name = name_of(str(content["spec"]))
    folder.mkdir(parents=True, exist_ok=True)
    for file, kind in ((report.JSON, "json"), (report.PICTURE, "png")):
        if (sweep / file).exists():
            shutil.copyfile(sweep / file, folder / f"{name}.{kind}")
    return name


def name_of(spec: str) -> str:
    """NAME-VARIANT of FILE:VARIANT."""
    file, _, variant = spec.partition(":")
    return f"{pathlib.Path(file).stem}{'-' + variant if variant else ''}"


def read(folder: pathlib.Path) -> dict[str, Mapping[str, Any]]:
    """{name: report} of a folder, by name."""
    return {
        file.stem: untrusted.read_object(file, untrusted.RECORD)
        for file in sorted(folder.glob("*.json"))
    }


def values(content: Mapping[str, Any]) -> dict[str, dict[str, dict[int, float]]]:
    """{arm: {measure: {seed: value}}} of a report."""
    return {
        arm: {
            measure: {int(seed): tables.number(x) for seed, x in own.items()}
            for measure, own in measures.items()
        }
        for arm, measures in content["values"].items()
    }


def sweep_of(content: Mapping[str, Any]) -> record.Sweep:
    """The sweep that a report is of."""
    return record.from_dict(content["sweep"], content["arms"])


def text(folder: pathlib.Path) -> str:
    """The page, in Markdown."""
    found = read(folder)
    blocks = [HEAD, _negative(found), _overview(found)]
    blocks += [_section(name, content, folder) for name, content in found.items()]
    return "\n".join(blocks)


def _negative(found: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        f"- {content['sweep']['claim']} ({content['sweep']['paper']}): [{name}](#{name})"
        for name, content in found.items()
        if content["verdict"] == record.NOT
    ]
    return "\n".join(["## Claims that do not reproduce here", "", *rows, KNOWN])


def _overview(found: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["## All", "", "| ablation | claim | verdict | seeds | cost |", "|---|---|---|---|---|"]
    for name, content in found.items():
        lines.append(
            f"| [{name}](#{name}) | {content['sweep']['claim']} | {content['verdict']} | "
            f"{len(content['seeds'])} | {_cost(content)} |"
        )
    return "\n".join([*lines, ""])


def _cost(content: Mapping[str, Any]) -> str:
    minutes = tables.number(content["cpu_seconds"]) / 60
    return f"{minutes:.0f} CPU minutes"


def _section(name: str, content: Mapping[str, Any], folder: pathlib.Path) -> str:
    own, known = sweep_of(content), values(content)
    origin = {**content["environment"], **content["origin"]}
    facts = ", ".join(f"{key} {value}" for key, value in origin.items() if value)
    lines = [
        f"## {name}",
        "",
        f"{own.paper}. {own.claim}",
        "",
        f"{own.analogue} Verdict: **{content['verdict']}**.",
        "",
        f"    alignjax sweep --config={content['spec']} --workdir=runs/{name} --jobs=2",
        "",
        f"{_cost(content)}; seeds {', '.join(map(str, content['seeds']))}; {facts}.",
        "",
        "| arm | " + " | ".join(measure.name for measure in own.measures) + " |",
        "|---" * (1 + len(own.measures)) + "|",
    ]
    for arm in own.arms:
        cells = []
        for measure in own.measures:
            mean, sd, n = judged.summary(known[arm][measure.name])
            shown = (tables.rounded(x, measure.digits) for x in (mean, sd))
            cells.append("{} sd {} n {}".format(*shown, n) if n > 1 else f"n {n}")
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    lines += ["", "| gate | kind | mean | 95% interval | rule | |", "|---|---|---|---|---|---|"]
    for gate in judged.gates(known, own):
        numbers = [tables.rounded(x, 3) if math.isfinite(x) else "-" for x in gate[1:4]]
        lines.append(
            f"| {gate.gate.name} | {gate.gate.kind} | {numbers[0]} | {numbers[1]} .. {numbers[2]} "
            f"| {gate.gate.rule} {gate.gate.bound:g} | {gate.state} |"
        )
    missing = [f"- not finished: {line}" for line in content["missing"]]
    picture = [f"![{name}]({folder.name}/{name}.png)"] * (folder / f"{name}.png").exists()
    return "\n".join([*lines, "", *missing, *picture, ""])
