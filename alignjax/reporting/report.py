"""The report of a lifecycle: a table for the terminal, figures, and one self-contained page."""

import base64
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from alignjax.core import untrusted
from alignjax.reporting import figures, markup, rollouts, suites, tables
from alignjax.runs import folder, records
from alignjax.training import journal, metrics

RESULTS = "results.json"

STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --muted: #5c6670; --line: #dde2e6;
  --card: #fff; --page: #f4f6f7; --good: #00694a; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8eb; --muted: #9aa5ae; --line: #343c43;
  --card: #1e2429; --page: #14181b; --good: #5ecfa5; --bad: #ff9489; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 74rem; color: var(--ink);
  background: var(--page); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; }
p { margin: .4rem 0; } .muted, figcaption, .se { color: var(--muted); }
.muted, figcaption { font-size: .875rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font: .9375rem/1.4 system-ui, sans-serif;
  font-variant-numeric: tabular-nums;
  overflow-wrap: normal; }
p, figure, .sample { max-width: 60rem; }
th, td { padding: .4rem .5rem; text-align: right; white-space: nowrap; }
td .se { display: block; } td .se, td small { font-size: .75rem; }
thead th { white-space: normal; color: var(--muted); font-weight: 600; font-size: .8rem;
  vertical-align: bottom; }
tbody tr { border-top: 1px solid var(--line); }
th:first-child { text-align: left; font-weight: 500; position: sticky; left: 0;
  background: var(--card); }
.gates td, .gates th { text-align: left; } .gates th { white-space: normal; }
small { display: block; color: var(--muted); }
.dot { display: inline-block; width: .6rem; height: .6rem; border-radius: 50%;
  margin-right: .5rem; }
.pass { color: var(--good); font-weight: 600; } .fail { color: var(--bad); font-weight: 600; }
figure { margin: 0; } figure .scroll { background: #fff; padding: .5rem; }
img { display: block; width: 100%; min-width: 30rem; }
figcaption { padding: .4rem 0; }
.sample { padding: .8rem 1rem; margin-bottom: .8rem; }
.text { white-space: pre-wrap; } pre { overflow-x: auto; font-size: .8rem; }
summary { cursor: pointer; }
h3 { font-size: 1rem; margin: 1.4rem 0 .5rem; } h3 ~ .card { margin-bottom: .8rem; }
td:has(.said) { text-align: left; white-space: normal; } .said { min-width: 14rem; }
.answer { border-top: 1px solid var(--line); margin-top: .6rem; padding-top: .5rem; }
"""
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title><style>{style}</style></head>
<body>
{body}
</body></html>
"""


def write(workdir: str | pathlib.Path) -> str:
    """The table of a lifecycle as plain text; report.html, frontier.png and curves.png beside it.

    Args:
      workdir: folder with results.json and, a folder per stage, metrics.jsonl and samples.jsonl.
        What is missing or torn there is left out or shown as "-"; a figure without data is not
        written. Or a folder of results of evaluation suites, or one that holds such a folder.

    Raises:
      ValueError: results.json is missing or is not a JSON object.
    """
    workdir = pathlib.Path(workdir)
    summaries = suites.summaries_in(workdir)
    shown = not summaries or (workdir / RESULTS).exists()
    title = f"Evaluation: {workdir.absolute().name}"
    results: tables.Results = _results(workdir / RESULTS) if shown else {"label": title}
    stages = dict.fromkeys(str(curve.get("stage") or "") for curve in results.get("curves") or [])
    rows = {stage: _rows(workdir / stage / metrics.FILE) for stage in stages}
    images = {"frontier": figures.frontier(results), "curves": figures.curves(results, rows)}
    for name, image in images.items():
        if image is None:
            (workdir / f"{name}.png").unlink(missing_ok=True)  # of an earlier report
        else:
            _replace(workdir / f"{name}.png", image)
    title = markup.escape(tables.label(results))
    written = {
        stage: (own, _rows(workdir / stage / journal.FILE)) for stage, own in rows.items() if stage
    }
    written_of = rollouts.section(written) + suites.section(summaries)
    body = _body(results, images, written_of, shown, _fields(workdir))
    page = PAGE.format(title=title, style=STYLE, body=body)
    _replace(workdir / "report.html", page.encode("utf-8"))
    parts = [suites.text(summaries)] if summaries else []
    return "\n\n".join([tables.text(results), *parts] if shown else parts)


def _body(
    results: tables.Results,
    images: Mapping[str, bytes | None],
    written: str,
    shown: bool,
    fields: Mapping[str, Any],
) -> str:
    gates = results.get("gates") or []
    captions = {
        "frontier": "Bars are standard errors; some are smaller than their marker. "
        + _bound(results.get("frontier") or {})
        + _missing(results),
        "curves": "Every step, and its running mean.",
    }
    sections = [
        f"<h1>{markup.escape(tables.label(results))}</h1>",
        f"<p>{markup.escape(results.get('description') or '')}</p>",
        f'<p class="{_tone(gates)}">Gates: {tables.count(gates)}</p>' if gates else "",
        f"<h2>Results</h2>\n{_table(results)}" if shown else "",
        *(f'<p class="muted">{markup.escape(note)}</p>' for note in tables.notes(results)),
        *(_figure(name, image, captions[name]) for name, image in images.items() if image),
        _gates(gates),
        _samples(results.get("samples") or []),
        written,
        _run(tables.footer(results), fields) if shown else "",
    ]
    return "\n".join(section for section in sections if section)


def _run(lines: Sequence[str], fields: Mapping[str, Any]) -> str:
    """Times, command, seed, environment and configuration, where they are known."""
    texts = [f'<p class="muted">{markup.escape(entry)}</p>' for entry in lines]
    if fields:
        own = markup.escape("\n".join(f"{name} = {value}" for name, value in fields.items()))
        texts.append(f"<details><summary>configuration</summary><pre>{own}</pre></details>")
    return "\n".join(["<h2>Run</h2>", *texts])


def _fields(workdir: pathlib.Path) -> dict[str, Any]:
    """The configuration in a folder's record, flat; {} where it is not to be read."""
    try:
        values = untrusted.read_object(workdir / folder.FILE, untrusted.RECORD)
    except (OSError, ValueError):
        return {}
    flat = records.flat(values.get("config", {}))
    return {name: value for name, value in flat.items() if not name.endswith(records.CLASS)}


def _bound(exact: tables.Results) -> str:
    """What the lines of the frontier figure say of the policies beside them."""
    if exact.get("is_bound", True):
        return "Nothing can lie in the grey area: the line is the exact optimum at each KL."
    told = (
        "The line is the exact optimum of a model that has learned the generator, which these "
        "policies do not start from: it does not bound them."
    )
    if not exact.get("own"):
        return told
    return told + (
        " But for sampling errors, nothing can lie in the grey area above the dashed line, the "
        "optimum of the model that they start from, as far as its draws carry."
    )


def _missing(results: tables.Results) -> str:
    """A sentence that names the rows that the frontier figure cannot show; empty if none."""
    exact, rows = results.get("frontier") or {}, results.get("rows") or []
    keys = (str(exact.get("x") or "kl"), str(exact.get("y") or "gold"))
    absent = [
        tables.label(row)
        for row in rows
        if not all(math.isfinite(tables.measure(row, key)[0]) for key in keys)
    ]
    return f" Not drawn, without both numbers: {', '.join(absent)}." if absent else ""


def _table(results: tables.Results) -> str:
    columns, colours = results.get("columns") or [], figures.families(results)
    heads = "".join(
        f'<th scope="col">{markup.escape(tables.label(column))}</th>' for column in columns
    )
    body = []
    for row in results.get("rows") or []:
        dot = f'<span class="dot" style="background:{colours[tables.family(row)]}"></span>'
        cells = (_cell(*tables.cell(row, column)) for column in columns)
        head = f'<th scope="row">{dot}{markup.escape(tables.label(row))}</th>'
        body.append(f"<tr>{head}{''.join(cells)}</tr>")
    if not body:
        return "<p>No results.</p>"
    rows = "\n".join(body)
    return f"""<div class="card scroll"><table><thead><tr><th></th>{heads}</tr></thead>
<tbody>{rows}</tbody></table></div>"""


def _cell(value: str, error: str, expected: str) -> str:
    error = f' <span class="se">{error}</span>' if error else ""
    expected = f"<small>expected {expected.strip('[]')}</small>" if expected else ""
    return f"<td>{value}{error}{expected}</td>"


def _figure(name: str, image: bytes, caption: str) -> str:
    title = {"frontier": "Gold reward against KL", "curves": "Learning curves"}[name]
    data = base64.b64encode(image).decode()
    return f"""<h2>{title}</h2><figure><div class="card scroll">
<img alt="{title}" src="data:image/png;base64,{data}"></div>
<figcaption>{markup.escape(caption)}</figcaption></figure>"""


def _tone(gates: Sequence[tables.Results]) -> str:
    return "pass" if all(gate.get("passed") is True for gate in gates) else "fail"


def _gates(gates: Sequence[tables.Results]) -> str:
    rows = []
    for gate in gates:
        verdict, name, value, rule = map(markup.escape, tables.gate_cells(gate))
        rows.append(
            f'<tr><th scope="row">{name}</th><td>{value}</td><td>{rule}</td>'
            f'<td class="{_tone([gate])}">{verdict}</td></tr>'
        )
    if not rows:
        return ""
    body = "\n".join(rows)
    return f"""<h2>Gates</h2><div class="card scroll"><table class="gates">
<tbody>{body}</tbody></table></div>"""


def _samples(samples: Sequence[tables.Results]) -> str:
    blocks = []
    for sample in samples:
        answers = []
        for answer in sample.get("answers") or []:
            score = answer.get("score")
            score = "" if score is None else f" · {tables.rounded(score, 2)}"
            head = f"{markup.escape(tables.label(answer))}{score}"
            body = f'<div class="text" dir="auto">{markup.escape(answer.get("text") or "")}</div>'
            answers.append(f'<div class="answer"><div class="muted">{head}</div>{body}</div>')
        prompt = f'<div class="text" dir="auto">{markup.escape(sample.get("prompt") or "")}</div>'
        blocks.append(f'<div class="card sample">{prompt}{"".join(answers)}</div>')
    return "\n".join(["<h2>Samples</h2>", *blocks]) if blocks else ""


def _results(path: pathlib.Path) -> tables.Results:
    try:
        results = untrusted.read_json(path, untrusted.RECORD)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} must be a readable JSON file; {error}. Run the lifecycle."
        ) from error
    if not isinstance(results, dict):
        raise ValueError(f"{path} must hold a JSON object; got {type(results).__name__}")
    return results


def _rows(path: pathlib.Path) -> list[dict[str, Any]]:
    try:
        return [row for row in metrics.read(path) if isinstance(row, dict)]
    except (OSError, untrusted.Refused):
        return []


def _replace(path: pathlib.Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)
