"""A sweep's report: a table for the terminal, report.json, pictures, a page that links all."""

import base64
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from alignjax.core import untrusted
from alignjax.lifecycles import lifecycle
from alignjax.reporting import markup, tables
from alignjax.reporting import report as pages
from alignjax.sweeps import folder, judged, numbers, pictures, record

JSON, PAGE, PICTURE, CURVES = "report.json", "report.html", "sweep.png", "curves.png"


class Result(NamedTuple):
    """All that a report says of a sweep."""

    plan: folder.Plan
    cells: list[folder.Cell]
    values: numbers.Values
    differences: list[judged.Difference]
    agreements: list[judged.Agreement]
    gates: list[judged.Gate]
    verdict: str
    missing: list[str]  # a line for each run that has not finished
    seconds: float  # of all runs, one after the other
    cpu_seconds: float

    @property
    def outside(self) -> list[str]:
        """A line for each number that left its band."""
        return [
            f"{a.measure} of {a.arm} is {a.ours.mean:.4g} over {a.ours.n} seeds; EXPECTED is "
            f"{a.expected.mean:.4g} (sd {a.expected.sd:.2g}, {a.expected.n} seeds): z = {a.z:.1f}, "
            f"beyond {a.band:.1f}"
            for a in self.agreements
            if a.ours.n and not a.agrees
        ]

    @property
    def contradiction(self) -> str:
        """Where the seeds decide otherwise than the file states; else "".

        Whether sizes are told apart too hangs on the seeds; whether the shape is there does not.
        """
        stated = self.plan.own.verdict
        shown = record.REPRODUCED, record.SHAPE
        if (stated in shown and self.verdict == record.NOT) or (
            stated == record.NOT and self.verdict in shown
        ):
            return f"the verdict is {self.verdict}; the file states {stated}"
        return ""


def find(sweep: pathlib.Path) -> Result:
    """What the finished runs of a sweep say.

    Raises:
      ValueError: the record or a run's numbers are not to be read, or lack a measure.
    """
    plan = folder.read(sweep)
    cells = folder.cells(sweep, plan)
    values = numbers.read(cells, plan.own)
    gates = judged.gates(values, plan.own)
    missing = []
    for cell in cells:
        if not cell.is_finished():
            line = folder.outcome(cell).get("line") or "not run yet"
            missing.append(f"{cell.name}: {line}")
    return Result(
        plan,
        cells,
        values,
        judged.differences(values, plan.own),
        judged.agreements(values, plan.expected),
        gates,
        judged.verdict(gates) if plan.own.gates else "",
        missing,
        sum(tables.number(folder.outcome(cell).get("seconds", 0)) for cell in cells),
        sum(tables.number(folder.outcome(cell).get("cpu_seconds", 0)) for cell in cells),
    )


def write(sweep: pathlib.Path) -> tuple[str, Result]:
    """(the report as text, what it says); report.json, the pictures and report.html beside it."""
    result = find(sweep)
    content = as_dict(result, sweep)
    lifecycle.write_json(sweep / JSON, content)
    images = {
        PICTURE: pictures.arms(result.values, result.plan.own),
        CURVES: pictures.curves(sweep, result.plan),
    }
    for name, image in images.items():
        if image is not None:
            partial = sweep / f"{name}.partial"
            partial.write_bytes(image)
            partial.replace(sweep / name)
    body = _body(result, content, images)
    title = markup.escape(_title(result.plan))
    page = pages.PAGE.format(title=title, style=pages.STYLE, body=body)
    (sweep / PAGE).write_text(page, encoding="utf-8", errors="replace")
    return text(result), result


def as_dict(result: Result, sweep: pathlib.Path) -> dict[str, Any]:
    """report.json: every value by arm, measure and seed, and what was made of them."""
    plan = result.plan
    return {
        "spec": plan.spec,
        "command": plan.command,
        "sweep": plan.own.as_dict(),
        "arms": {arm.name: dict(arm.texts) for arm in plan.arms},
        "seeds": list(plan.seeds),
        "values": {
            arm: {
                measure: {
                    str(seed): x if math.isfinite(x) else repr(x) for seed, x in seeds.items()
                }
                for measure, seeds in own.items()
            }
            for arm, own in result.values.items()
        },
        "differences": [judged.as_dict(row) for row in result.differences],
        "expected": [
            {**judged.as_dict(row), "agrees": row.agrees} for row in result.agreements
        ],
        "gates": [
            {"name": row.gate.name, **judged.as_dict(row), "rule": _rule(row.gate),
             "kind": row.gate.kind}
            for row in result.gates
        ],
        "verdict": result.verdict,
        "missing": result.missing,
        "seconds": result.seconds,
        "cpu_seconds": result.cpu_seconds,
        "origin": dict(plan.origin),
        "environment": _environment(result),
    }  # fmt: skip


def _environment(result: Result) -> dict[str, str]:
    """Versions and devices as the first finished run tells them."""
    for cell in result.cells:
        try:
            own = untrusted.read_object(cell.folder / folder.RESULTS, untrusted.RECORD)
        except (OSError, ValueError):
            continue
        return {str(k): str(v) for k, v in (own.get("environment") or {}).items()}
    return {}


def _title(plan: folder.Plan) -> str:
    return f"Sweep: {pathlib.Path(plan.spec.partition(':')[0]).stem}"


def _rule(gate: record.Gate) -> str:
    return f"{gate.rule} {gate.bound:g}"


def _number(x: float, digits: int) -> str:
    return tables.rounded(x, digits) if math.isfinite(x) else "-"


def arm_cells(result: Result) -> tuple[list[str], list[list[str]]]:
    """(heads, a row for each arm): mean, sd and n of every measure."""
    rows = []
    for arm in result.plan.own.arms:
        cells = []
        for measure in result.plan.own.measures:
            own = judged.summary(result.values[arm][measure.name])
            mean, sd = (_number(x, measure.digits) for x in own[:2])
            cells.append(f"{mean} sd {sd} n {own.n}")
        rows.append([arm, *cells])
    return ["", *(measure.name for measure in result.plan.own.measures)], rows


def difference_cells(result: Result) -> tuple[list[str], list[list[str]]]:
    """(heads, a row for each arm and measure): the paired difference and its interval."""
    digits = {measure.name: measure.digits for measure in result.plan.own.measures}
    rows = [
        [
            f"{d.measure}: {d.arm} - {result.plan.own.baseline}",
            _number(d.value, digits[d.measure]),
            f"[{_number(d.low, digits[d.measure])}, {_number(d.high, digits[d.measure])}]",
            _number(d.p, 4),
            _number(d.adjusted, 4),
            str(d.n),
        ]
        for d in result.differences
    ]
    return ["paired difference", "mean", "95% interval", "p", "p by Holm", "n"], rows


def gate_cells(result: Result) -> tuple[list[str], list[list[str]]]:
    """(heads, a row for each gate)."""
    rows = [
        [
            g.gate.name, g.gate.kind, _number(g.value, 3),
            f"[{_number(g.low, 3)}, {_number(g.high, 3)}]", _rule(g.gate), g.state,
        ]
        for g in result.gates
    ]  # fmt: skip
    return ["gate", "kind", "mean", "95% interval", "rule", ""], rows


def expected_cells(result: Result) -> tuple[list[str], list[list[str]]]:
    """(heads, a row for each number of EXPECTED)."""
    digits = {measure.name: measure.digits for measure in result.plan.own.measures}
    rows = []
    for a in result.agreements:
        ours, there = (
            f"{_number(s.mean, digits[a.measure])} sd {_number(s.sd, digits[a.measure])} n {s.n}"
            for s in (a.ours, a.expected)
        )
        name, verdict = f"{a.measure}: {a.arm}", "" if a.agrees else "outside"
        rows.append([name, ours, there, _number(a.z, 2), f"{a.band:.1f}", verdict])
    return ["number", "ours", "expected", "z", "|z| at most", ""], rows


def text(result: Result) -> str:
    """The report for a terminal."""
    own = result.plan.own
    head = [_title(result.plan)]
    head += [
        f"{name}: {said}" for name, said in (("paper", own.paper), ("claim", own.claim)) if said
    ]
    blocks = ["\n".join(head)]
    for heads, rows in (arm_cells(result), difference_cells(result), gate_cells(result)):
        blocks += [aligned([heads, *rows])] if rows else []
    heads, rows = expected_cells(result)
    if rows:
        alarm = f"false alarm: {judged.FALSE_ALARM:g} over all {len(rows)} numbers"
        blocks.append(aligned([heads, *rows]) + f"\n{alarm}")
    lines = [f"verdict: {result.verdict}"] if result.verdict else []
    lines += [result.contradiction] if result.contradiction else []
    lines += [f"not finished: {line}" for line in result.missing]
    lines.append(f"time: {result.seconds:.0f} s of all runs, {result.cpu_seconds:.0f} CPU seconds")
    return "\n\n".join([*blocks, "\n".join(lines)])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns under one another; the first starts, the others end at one place."""
    columns = [[tables.line(cell) for cell in column] for column in zip(*rows, strict=True)]
    return "\n".join(line.rstrip() for line in tables.side_by_side(columns))


def _html(table: tuple[list[str], list[list[str]]], title: str) -> str:
    heads, rows = table
    if not rows:
        return ""
    escaped = [[markup.escape(cell) for cell in row] for row in rows]
    return f"<h2>{title}</h2>\n{markup.table([*map(markup.escape, heads)], escaped)}"


def _figure(title: str, image: bytes | None, caption: str) -> str:
    if image is None:
        return ""
    data = base64.b64encode(image).decode()
    return f"""<h2>{title}</h2><figure><div class="card scroll">
<img alt="{title}" src="data:image/png;base64,{data}"></div>
<figcaption>{caption}</figcaption></figure>"""


def _body(result: Result, content: dict[str, Any], images: dict[str, bytes | None]) -> str:
    own, plan = result.plan.own, result.plan
    told = (("Paper", own.paper), ("Claim", own.claim), ("Analogue", own.analogue))
    expected = (
        f"Expected numbers: a sound sweep leaves any band with a chance of {judged.FALSE_ALARM:g} "
        "in all."
    )
    tone = "pass" if not (result.contradiction or result.outside) else "fail"
    sections = [
        f"<h1>{markup.escape(_title(plan))}</h1>",
        *(f"<p>{name}: {markup.escape(said)}</p>" for name, said in told if said),
        f'<p class="{tone}">Verdict: {markup.escape(result.verdict)}</p>' if result.verdict else "",
        *(
            f'<p class="fail">{markup.escape(line)}</p>'
            for line in (result.contradiction, *result.outside, *result.missing)
            if line
        ),
        _html(arm_cells(result), "Arms"),
        _figure(
            "Every seed", images[PICTURE], "Points are seeds, bars means with 95% t intervals."
        ),
        _html(difference_cells(result), f"Against {markup.escape(own.baseline)}, paired by seed"),
        _html(gate_cells(result), "Gates"),
        _html(expected_cells(result), expected),
        _figure("Learning curves", images[CURVES], "Thin lines are seeds, thick ones their mean."),
        _runs(result),
        _facts(content),
    ]
    return "\n".join(section for section in sections if section)


def _runs(result: Result) -> str:
    """A row for each run, with links to its configuration, curves and report, and its command."""
    rows = []
    for cell in result.cells:
        base = f"arms/{cell.folder.parent.name}/{cell.folder.name}"
        names = {"config.json": "config", "report.html": "report", "metrics.jsonl": "curve"}
        names |= {"results.json": "results"}
        links = [
            f'<a href="{markup.escape(base)}/{name}">{word}</a>'
            for name, word in names.items()
            if (cell.folder / name).exists()
        ]
        stages = sorted(p.parent.name for p in cell.folder.glob("*/metrics.jsonl"))
        links += [
            f'<a href="{markup.escape(f"{base}/{stage}/metrics.jsonl")}">{markup.escape(stage)}</a>'
            for stage in stages
        ]
        links += [f'<a href="{markup.escape(base)}.log">log</a>'] * cell.beside("log").exists()
        seconds = folder.outcome(cell).get("seconds")
        took = "" if seconds is None else f"{tables.number(seconds):.0f} s"
        command = markup.escape(f"alignjax {' '.join(cell.argv)}")
        said = f'<span class="said">{command}</span>'
        rows.append([markup.escape(cell.name), " ".join(links), took, said])
    return f"<h2>Runs</h2>\n{markup.table(['', 'files', 'time', 'command'], rows)}"


def _facts(content: dict[str, Any]) -> str:
    facts = {**content["environment"], **content["origin"]}
    facts["seeds"] = ", ".join(map(str, content["seeds"]))
    line = ", ".join(f"{name} {value}" for name, value in facts.items() if value)
    return f'<p class="muted">{markup.escape(line)}</p>'


def expected_text(result: Result) -> str:
    """The numbers as EXPECTED of an experiment file has them."""
    lines = []
    for arm, own in result.values.items():
        known = {name: judged.summary(seeds) for name, seeds in own.items()}
        cells = [
            f"            {json.dumps(name)}: ({mean:.5g}, {sd:.3g}, {n}),"
            for name, (mean, sd, n) in known.items()
            if n >= 2
        ]
        if cells:
            lines += [f"        {json.dumps(arm)}: {{", *cells, "        },"]
    variant = result.plan.spec.partition(":")[2]
    return "\n".join([f"    {json.dumps(variant)}: {{", *lines, "    },"])
