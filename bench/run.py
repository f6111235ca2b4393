"""AlignJAX beside TRL and Tunix: CPU seconds, wall seconds and peak memory of whole steps.

    python -m bench.run --setup          # environments of TRL and Tunix
    python -m bench.run --check          # the same losses from the same weights and rows
    python -m bench.run --quick          # under ten minutes on two cores
    python -m bench.run                  # everything; hours
    python -m bench.report               # the page, from the results

Each code base is a process of its own; they take turns, a step each, so that what else the machine
does meets them alike. A line of JSON for each is added to the file of results.
"""

import argparse
import contextlib
import datetime
import json
import math
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from bench import checks, environments, flops, machine, processes, report, workloads

WARM = {"M0": 1, "M1": 3, "M2": 2}  # steps that compile and settle, not counted
PAIRS = {"M0": 3, "M1": 8, "M2": 5}  # steps that count
CHECKED, CHECK_STEPS = ("W1", "W2", "W3"), 3
# In order of what one wants to know first: where time runs out, the last are left out.
QUICK = ("W1", "W1v", "W2", "W4", "W3", "W5grpo", "W5ppo", "W5rloo")
QUICK_MINUTES, QUICK_WARM, QUICK_PAIRS = 8.0, 1, 2


class Plan(NamedTuple):
    """cases: of all models. pairs, warm: None is the model's own. deadline: of `time.monotonic`,
    after which no case begins, and one at work ends with the pair that it is at."""

    cases: list[workloads.Case]
    pythons: dict[str, str]
    threads: list[int]
    pairs: int | None
    warm: int | None
    deadline: float
    out: pathlib.Path

    def steps(self, case: workloads.Case) -> tuple[int, int]:
        """(steps that are not counted, steps that are)."""
        warm = WARM[case.model_name] if self.warm is None else self.warm
        return warm, PAIRS[case.model_name] if self.pairs is None else self.pairs


@contextlib.contextmanager
def weights_of(models: list[str], python: str) -> Iterator[dict[str, pathlib.Path]]:
    """Folders of the weights that all arms begin with, by model."""
    with tempfile.TemporaryDirectory(prefix="alignjax-bench-") as place:
        folders = {name: pathlib.Path(place) / name for name in models}
        for name, folder in folders.items():
            subprocess.run(
                [python, "-m", "bench.weights", name, str(folder)],
                env=processes.environment(1),
                cwd=processes.ROOT,
                check=True,
            )
        yield folders


@contextlib.contextmanager
def arms_of(
    case: workloads.Case,
    pythons: dict[str, str],
    weights: pathlib.Path,
    count: int,
    threads: int,
) -> Iterator[list[processes.Arm]]:
    """The arms that there are for a case, ready."""
    arms = [
        processes.Arm(name, python, case, weights=weights, count=count, threads=threads)
        for name, python in pythons.items()
        if (case.name, name) not in workloads.ABSENT
    ]
    try:
        for arm in arms:
            arm.ready()
            checks.sizes(arm)
        for arm in arms:
            arm.go_ahead()
        yield arms
    finally:
        for arm in arms:
            arm.close()


def measure(
    case: workloads.Case, plan: Plan, threads: int, weights: pathlib.Path
) -> list[dict[str, Any]]:
    """A line for each arm."""
    warm, pairs = plan.steps(case)
    before, counted = machine.load(), []
    with arms_of(case, plan.pythons, weights, warm + pairs, threads) as arms:
        for number in range(warm + pairs):
            if counted and time.monotonic() > plan.deadline:
                break
            for arm in arms:
                turn = arm.turn()
                told = {name: round(turn[name], 2) for name in ("cpu", "wall", "peak")}
                at = f"{case.name} {case.model_name} {threads} {number - warm:+d}"
                print(at, arm.name, told, file=sys.stderr, flush=True)
            checks.step(arms, number)
            if number >= warm:
                counted.append(number)
    shared = {
        "workload": case.name,
        "model": case.model_name,
        "threads": threads,
        "warm": warm,
        "flops": [flops.of_step(case, step) for step in counted],
        "tokens": [case.tokens(step) for step in counted],
        "load": {"before": before, "after": machine.load()},
    }
    return [
        {
            **shared,
            "arm": arm.name,
            "parameters": arm.parameters,
            "versions": arm.versions,
            "turns": arm.turns,
            "ahead": arm.before,
        }
        for arm in arms
    ]


def run(plan: Plan) -> list[str]:
    """Measures all cases into the file of results. Returns what failed or was left out."""
    longest, problems = 0.0, []
    session = {
        "schema": report.SCHEMA,
        "session": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine.about(),
    }
    plan.out.parent.mkdir(parents=True, exist_ok=True)
    models = sorted({case.model_name for case in plan.cases})
    with weights_of(models, plan.pythons["alignjax"]) as folders:
        for threads in plan.threads:
            session["ceiling"] = machine.ceiling(plan.pythons, threads)
            print(f"{threads} threads: {session['ceiling']}", file=sys.stderr, flush=True)
            for case in plan.cases:
                start = time.monotonic()
                if start + longest > plan.deadline:
                    problems.append(f"{case.name} on {case.model_name} is left out: no time left.")
                    continue
                try:
                    lines = measure(case, plan, threads, folders[case.model_name])
                except SystemExit as failure:
                    print(failure, file=sys.stderr, flush=True)
                    problems.append(str(failure).strip().splitlines()[-1])
                    continue
                with plan.out.open("a") as file:
                    for line in lines:
                        file.write(json.dumps({**session, **line}) + "\n")
                longest = max(longest, time.monotonic() - start)
    return problems


def check(pythons: dict[str, str], models: list[str]) -> None:
    """Compares losses of three steps on the same weights and rows; prints them.

    Raises:
      SystemExit: they differ.
    """
    with weights_of(models, pythons["alignjax"]) as folders:
        for case in (workloads.case(name, model) for model in models for name in CHECKED):
            with arms_of(case, pythons, folders[case.model_name], CHECK_STEPS, 1) as arms:
                for number in range(CHECK_STEPS):
                    losses = {arm.name: arm.turn()["loss"] for arm in arms}
                    told = ", ".join(f"{name} {loss:.7f}" for name, loss in losses.items())
                    print(f"{case.name} {case.model_name} step {number}: {told}", flush=True)
                    checks.step(arms, number, every=True)
    print(f"all agree within {checks.SAME:g}")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--setup", action="store_true", help="make the environments and end")
    parser.add_argument("--check", action="store_true", help="compare losses and end (M0)")
    parser.add_argument("--quick", action="store_true", help="M1, one thread, few pairs")
    parser.add_argument("--workloads", help="W1,W2,...; all")
    parser.add_argument("--models", help="M0,M1,M2; M1,M2")
    parser.add_argument("--arms", default=",".join(workloads.ARMS), help="alignjax,tunix,trl")
    parser.add_argument("--pairs", type=int, help="steps that count; 8 on M1, 5 on M2")
    parser.add_argument("--warm", type=int, help="steps before them; 3 on M1, 2 on M2")
    parser.add_argument("--threads", help="1,2: pinned to a CPU, and unpinned")
    parser.add_argument(
        "--minutes", type=float, help="no case begins that would end later; 8 in a quick run"
    )
    parser.add_argument("--out", type=pathlib.Path, help="file of results, lines are added")
    parser.add_argument("--envs", type=pathlib.Path, default=environments.default_folder())
    given = parser.parse_args(arguments)
    for name, least in (("pairs", 1), ("warm", 1)):
        value = getattr(given, name)
        if value is not None and value < least:
            parser.error(f"--{name} must be at least {least}; got {value}")
    unknown = set(given.arms.split(",")) - set(workloads.ARMS)
    if unknown:
        parser.error(f"--arms must be of {','.join(workloads.ARMS)}; got {given.arms}")
    return given


def plan_of(given: argparse.Namespace, pythons: dict[str, str], began: float) -> Plan:
    """The plan that options ask for. began: when it did, of `time.monotonic`."""
    quick = given.quick
    names = given.workloads or ",".join(QUICK if quick else workloads.WORKLOADS)
    models = given.models or ("M1" if quick else "M1,M2")
    threads = given.threads or ("1" if quick else "1,2")
    quick_out = pathlib.Path(tempfile.gettempdir()) / "alignjax-bench-quick.jsonl"
    return Plan(
        cases=[workloads.case(n, m) for m in models.split(",") for n in names.split(",")],
        pythons=pythons,
        threads=[int(n) for n in threads.split(",")],
        pairs=given.pairs or (QUICK_PAIRS if quick else None),
        warm=given.warm or (QUICK_WARM if quick else None),
        deadline=began + 60 * (given.minutes or (QUICK_MINUTES if quick else math.inf)),
        out=given.out or (quick_out if quick else report.RESULTS),
    )


def main(arguments: list[str] | None = None) -> None:
    given, began = parse(arguments), time.monotonic()
    arms = ["alignjax", *(name for name in given.arms.split(",") if name != "alignjax")]
    if given.setup:
        problems = [environments.set_up(arm, given.envs) for arm in arms]
        raise SystemExit("\n".join(filter(None, problems)) or None)
    # A quick run takes what is there; else what is missing is installed first.
    pythons = environments.pythons(arms, given.envs, install=not given.quick)
    try:
        if given.check:
            check(pythons, (given.models or "M0").split(","))
            return
        plan = plan_of(given, pythons, began)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    if len(pythons) == 1:
        print("AlignJAX runs alone: nothing is compared.", file=sys.stderr)
    if given.quick:
        plan.out.unlink(missing_ok=True)
    problems = run(plan)
    if plan.out.exists():
        print(report.page(report.read(plan.out), smoke=True))
    print(f"{plan.out} holds the results; `python -m bench.report` writes the page.")
    if problems:
        raise SystemExit("\n".join(problems))


if __name__ == "__main__":
    main()
