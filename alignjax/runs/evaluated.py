"""last_evaluation.json: the numbers of a run's last evaluation, and of which state they are."""

import datetime
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from alignjax.core import untrusted
from alignjax.evals import estimate
from alignjax.parallel import processes
from alignjax.training import checkpoint, evaluators, metrics

FILE = "last_evaluation.json"
STAGE = "evaluation.json"  # of a lifecycle's stage: what its report measured


def write(
    workdir: pathlib.Path,
    numbers: Mapping[str, estimate.Estimate],
    *,
    best: bool,
    command: str,
    log: Callable[[str], None],
) -> None:
    """Keeps the numbers of an evaluation in the run's folder; a line where it takes no files."""
    if not processes.is_first():
        return
    where = workdir / evaluators.BEST if best else workdir
    content = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "step": checkpoint.newest_name(where),
        "best": best,
        "numbers": {name: number.as_dict() for name, number in numbers.items()},
    }
    partial = workdir / f"{FILE}.partial"
    try:
        partial.write_text(json.dumps(content, indent=1))
        partial.replace(workdir / FILE)
    except OSError as error:  # a folder to read from alone, or a full disk
        log(f"{workdir / FILE} is not written: {error.strerror}.")


def last(workdir: pathlib.Path) -> dict[str, Any]:
    """As `write` wrote it, else as a lifecycle measured its stage, else of the last evaluation in
    the loop, without a count of rows; {} where there was none."""
    file, stage = workdir / FILE, workdir / STAGE
    if file.exists():
        return untrusted.read_object(file, untrusted.RECORD)
    if stage.exists():
        found = untrusted.read_object(stage, untrusted.RECORD)
        numbers = {n: own for n, own in found.items() if isinstance(own, dict) and "value" in own}
        return {"step": checkpoint.newest_name(workdir), "best": False, "numbers": numbers}
    for row in reversed(metrics.read(workdir / metrics.FILE)):
        names = [n for n in row if n.startswith("eval/") and not n.endswith(" se")]
        if names:
            numbers = {
                name.removeprefix("eval/"): {"value": row[name], "se": row.get(f"{name} se")}
                for name in names
            }
            return {"step": row["step"] + 1, "best": False, "numbers": numbers}
    return {}
