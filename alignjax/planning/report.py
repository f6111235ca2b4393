"""A plan for people and for machines."""

import contextlib
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from alignjax.planning import gradients, kernels, planner

UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
STAGES = {"evaluation": "by alignjax evaluate", "loop evaluation": "in the loop, to evaluate"}
WIDTH = 40  # characters of a bar
MARKS = {"parameters": "P", "optimizer": "O", "frozen": "F", "batch": "B", "other": "."}
SPENT = {"matmul": "M", "vector": "V", "kernels": "K", "copies": "C", "exposed": "W"}


def size(count: float) -> str:
    """Bytes for people."""
    for unit, name in UNITS:
        if count >= unit:
            return f"{count / unit:.2f} {name}"
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    """Seconds for people."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _memory_lines(program: planner.Compiled) -> list[str]:
    held = program.memory
    assert held is not None
    sizes: dict[str, int] = {}
    for part in (held.arguments, held.resident):
        for name, count in part.items():
            sizes[name] = sizes.get(name, 0) + count
    shown = [f"{name} {size(count)}" for name, count in sizes.items() if count >= 2**10]
    inside = f" (KV cache {size(held.cache)} of it)" if held.cache else ""
    shown += [f"temporaries {size(held.temporaries)}{inside}", f"outputs {size(held.outputs)}"]
    shown += [f"program {size(held.code)}", f"padding {size(held.padding)}"]
    limit = f" of {size(program.limit)} usable" if program.limit else ""
    lines = [f"    HBM {size(held.total)}{limit}: {', '.join(shown)}"]
    resident = sum(held.resident.values())
    if resident:
        lines.append(f"    of which held but not read by this program: {size(resident)}")
    scale = WIDTH / max(program.limit or held.total, held.total, 1)
    marks = "".join(MARKS[name] * round(count * scale) for name, count in sizes.items())
    marks += "T" * round((held.temporaries + held.outputs + held.code + held.padding) * scale)
    lines.append(f"    [{marks.ljust(WIDTH)}] P parameters O optimizer F frozen B batch T rest")
    return lines


def _time_lines(program: planner.Compiled, plan: planner.Plan) -> list[str]:
    lines = [f"    FLOPs {program.flops:.4g} a device (matrix products, loops counted)"]
    if program.work is not None and program.work.run:
        whole = program.flops * plan.devices
        lines[0] += (
            f"; {whole / program.work.run - 1:+.1%} against {program.work.run:.4g} by formula"
        )
    if program.kernel_flops:
        lines.append(
            f"    of it {program.kernel_flops:.4g} in kernels, counted from their operands"
        )
    if program.uncounted:
        lines.append(f"    not counted, kernels unknown here: {', '.join(program.uncounted)}")
    for total in program.collectives[:6]:
        over = f", {total.overlapping / total.wire:.0%} may overlap" if total.wire else ""
        lines.append(
            f"    {total.kind} over {total.axes}: {total.times:.0f} times, "
            f"{size(total.payload)}, {size(total.wire)} sent{over}"
        )
    if len(program.collectives) > 6:
        rest = sum(total.wire for total in program.collectives[6:])
        lines.append(f"    and {len(program.collectives) - 6} smaller kinds, {size(rest)} sent")
    if program.leaving is not None and any(program.leaving):
        note = (
            "" if plan.machine.kind == "tpu" else " (XLA for CPU has no reduce-scatter of its own)"
        )
        lines.append(
            f"    {gradients_line(program.leaving)}{note if program.leaving.sliced else ''}"
        )
    estimate = program.estimate
    if estimate is not None and estimate.cycles:
        inside = ""
        if estimate.kernels:
            share = f"{kernels.EFFICIENCY:.0%} of peak"
            inside = f"kernels {duration(estimate.kernels)} (taken at {share}), "
        lines.append(
            f"    time {duration(estimate.total)} by the compiler's cycles: matmul "
            f"{duration(estimate.matmul)}, vector {duration(estimate.vector)}, {inside}waiting for "
            f"collectives {duration(estimate.exposed)} ({duration(estimate.hidden)} hidden); "
            f"roofline {duration(program.roofline)}"
        )
        spent = {mark: getattr(estimate, name) / estimate.total for name, mark in SPENT.items()}
        bar = "".join(mark * round(WIDTH * share) for mark, share in spent.items())
        lines.append(f"    [{bar.ljust(WIDTH)}] M matmul V vector K kernels C copies W waiting")
        lines += [f"      {duration(s):>8}  {name}" for name, s in estimate.slowest[:4]]
    elif program.roofline:
        lines.append(f"    time at least {duration(program.roofline)} by the roofline")
    return lines


def gradients_line(leaving: gradients.Leaving) -> str:
    """How gradients leave, and what of it is more than they need."""
    parts = [f"{size(leaving.scattered)} by reduce-scatter"]
    if leaving.sliced:
        parts.append(
            f"{size(leaving.sliced)} by all-reduce of which each device keeps a slice: half of it "
            "would do"
        )
    if leaving.whole:
        parts.append(f"{size(leaving.whole)} by all-reduce that is kept whole")
    return f"gradients leave: {'; '.join(parts)}"


def _overflow_lines(program: planner.Compiled) -> list[str]:
    over = program.overflow
    assert over is not None
    lines = [f"    does not fit: {size(over.needed)} of {over.kind}, the limit is "
             f"{size(over.limit)}"]  # fmt: skip
    return lines + [f"      {size(count):>10}  {name}" for name, count in over.arrays]


def advice(program: planner.Compiled) -> str:
    """What to change about a program that does not fit."""
    held = program.memory
    if held is not None and held.temporaries < held.total / 2:
        return (
            "its arrays outweigh its temporaries: more devices on mesh.data, a larger mesh.model, "
            "adapters, or model.param_dtype=bfloat16"
        )
    if program.name == "update":
        return "raise loop.micro_batches, set model.remat=full, or use more devices"
    return "lower loop.batch_size or the lengths, or use more devices"


def verdict(plan: planner.Plan) -> str:
    """One line: whether it fits."""
    if not plan.machine.chip.hbm:
        return "verdict: compiles; memory is not judged on this machine"
    wrong = [program for program in plan.programs if not program.fits]
    if not wrong:
        return f"verdict: fits {plan.machine.name}"
    return "verdict: does not fit; " + "; ".join(f"{x.name}: {advice(x)}" for x in wrong)


def text(plan: planner.Plan) -> str:
    """The whole plan as lines."""
    mesh = ", ".join(f"{name} {count}" for name, count in plan.mesh.items())
    chip = plan.machine.chip
    several = f" x {plan.machine.slices} slices" if plan.machine.slices > 1 else ""
    rented = plan.machine.accelerator_type
    lines = [
        f"{plan.method}, {plan.parameters:,} trained parameters, on {plan.machine.name}{several}"
        f"{f' ({rented})' if rented else ''}: {plan.devices} x {chip.name}, mesh {mesh}",
    ]
    if chip.options:
        lines.append(f"  Compiled with, and to be run with, LIBTPU_INIT_ARGS='{chip.init_args}'")
    if not plan.machine.here:
        lines.append(
            "  Programs are those of XLA for CPU in the GPUs' place: layouts, collectives and "
            "FLOPs hold, temporaries are only near."
        )
    for program in plan.programs:
        often = f"{program.per_step} a step" if program.per_step else "before the first step"
        often = STAGES.get(program.stage, often)
        lines.append(f"  {program.name} ({often}; compiled in {program.compile_seconds:.0f} s)")
        if program.overflow is not None:
            lines += _overflow_lines(program)
            continue
        lines += _memory_lines(program) + _time_lines(program, plan)
        if not program.fits:
            lines += [f"      {size(count):>10}  {name}" for name, count in program.largest]
    if plan.step_seconds:
        at_best = plan.basis == "roofline"
        rate = f", {plan.tokens_per_second:,.0f} tokens/s a device"
        use = f", MFU {plan.utilisation:.1%}" if plan.utilisation else ""
        lines.append(
            f"  a step: {duration(plan.step_seconds)}{use}{rate}; "
            + ("the roofline's bounds, no estimate" if at_best else "estimates, no measurement")
        )
    return "\n".join([*lines, verdict(plan)])


def versions() -> dict[str, str]:
    """Of the packages that decide what is compiled; libtpu only where it is installed."""
    installed = {}
    for name in ("jax", "jaxlib", "libtpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed


def table(plan: planner.Plan, config: str = "") -> dict[str, Any]:
    """The same for JSON; config: the name of what was planned."""
    return {
        "config": config,
        "versions": versions(),
        "topology": plan.machine.name,
        "slices": plan.machine.slices,
        "accelerator_type": plan.machine.accelerator_type,
        "chip": plan.machine.chip._asdict(),
        "devices": plan.devices,
        "own_compiler": plan.machine.here,
        "method": plan.method,
        "trained_parameters": plan.parameters,
        "mesh": plan.mesh,
        "fits": plan.fits,
        "verdict": verdict(plan),
        "estimate_basis": plan.basis,
        "estimated_step_seconds": plan.step_seconds,
        "estimated_mfu": plan.utilisation,
        "estimated_tokens_per_second_per_device": plan.tokens_per_second,
        "programs": [_row(program) for program in plan.programs],
    }


def _row(program: planner.Compiled) -> dict[str, Any]:
    row = program._asdict()
    for name in ("overflow", "memory", "work", "leaving", "estimate"):
        row[name] = row[name]._asdict() if row[name] is not None else None
    if program.memory is not None:
        row["memory"]["total"] = program.memory.total
    row["collectives"] = [total._asdict() for total in program.collectives]
    basis = program.estimate is not None and program.estimate.cycles
    return {
        **row,
        "fits": program.fits,
        "estimated_seconds": program.seconds,
        "estimate_basis": "compiler cycles" if basis else "roofline",
    }


COLUMNS = (
    "config", "machine", "mesh", "trained parameters", "HBM peak / usable GiB", "program",
    "FLOPs against formula", "est. step s", "est. MFU", "est. tokens/s/device", "verdict",
)  # fmt: skip


def markdown(plans: Sequence[Mapping[str, Any]]) -> str:
    """Plans, as `table` made them, as the rows of one table."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    for plan in plans:
        measured = [row for row in plan["programs"] if row["memory"]]
        peak = max(measured, key=lambda row: row["memory"]["total"], default=None)
        gib, limit = (peak["memory"]["total"] / 2**30, peak["limit"] / 2**30) if peak else (0, 0)
        last = next(row for row in plan["programs"] if row["name"] == "update")
        work = (last["work"] or {}).get("run", 0.0)
        ratio = f"{last['flops'] * plan['devices'] / work - 1:+.2%}" if work else "-"
        several = f" x {plan['slices']}" if plan["slices"] > 1 else ""
        mesh = ", ".join(f"{name} {size}" for name, size in plan["mesh"].items() if size > 1)
        mfu = plan["estimated_mfu"]
        least, most = (">= ", "<= ") if plan["estimate_basis"] == "roofline" else ("", "")
        cells = (
            plan["config"], plan["topology"] + several, mesh, f"{plan['trained_parameters']:,}",
            f"{gib:.2f} / {limit:.2f}", peak["name"] if peak else "-", ratio,
            f"{least}{plan['estimated_step_seconds']:.3g}", f"{most}{mfu:.1%}" if mfu else "-",
            f"{most}{plan['estimated_tokens_per_second_per_device']:,.0f}",
            "fits" if plan["fits"] else "does not fit",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
