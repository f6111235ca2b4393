"""A sweep for people and for machines."""

from typing import Any

from alignjax.planning import report, sweep

HEAD = ("mesh", "micro", "remat", "HBM", "fits", "est. update s", "est. MFU")


def _cells(attempt: sweep.Attempt, timed: bool) -> tuple[str, ...]:
    mesh = (
        " ".join(f"{name} {size}" for name, size in attempt.choice.mesh if size > 1) or "1 device"
    )
    program = attempt.program
    own = (mesh, str(attempt.choice.micro_batches), attempt.choice.remat)
    if program is None:
        return (*own, "-", "refused", "-", "-")
    if program.overflow is not None or program.memory is None:
        needed = program.overflow.needed if program.overflow else 0
        return (*own, report.size(needed) if needed else "-", "no", "-", "-")
    seconds = f"{program.seconds:.3g}" if timed else "-"
    used = f"{attempt.utilisation:.1%}" if attempt.utilisation else "-"
    return (*own, report.size(program.memory.total), "yes" if program.fits else "no", seconds, used)


def text(swept: sweep.Sweep) -> str:
    """The table, and what was left out."""
    timed = swept.machine.chip.flops > 0
    rows = [HEAD, *(_cells(tried, timed) for tried in swept.tried)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    lines = [
        "  ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    lines += [f"  refused: {x.choice.options()}: {x.reason}" for x in swept.tried if x.reason]
    lines.append(summary(swept))
    if not timed:
        lines.append("no times are known on this machine: ordered by memory")
    lines.append(verdict(swept))
    return "\n".join(lines)


def summary(swept: sweep.Sweep) -> str:
    """How many choices were not compiled, and why."""
    parts = [f"{swept.considered} choices divide the run"]
    parts.append(f"{swept.pruned} of them can't fit by arithmetic")
    parts.append(f"{swept.skipped} are worse than one of the same mesh that was tried")
    parts.append(f"{len(swept.tried)} were compiled (the update alone)")
    if swept.untried:
        parts.append(f"{swept.untried} are left: raise --compiles to try them")
    return ", ".join(parts)


def verdict(swept: sweep.Sweep) -> str:
    """One line: the best that fits."""
    best = swept.best
    if best is None:
        return (
            f"verdict: nothing that was tried fits {swept.machine.name}; use more devices, "
            "adapters or model.param_dtype=bfloat16"
        )
    return f"verdict: best that fits {swept.machine.name}: {best.choice.options()}"


def table(swept: sweep.Sweep, config: str = "") -> dict[str, Any]:
    """The same for JSON."""
    best = swept.best
    return {
        "config": config,
        "versions": report.versions(),
        "topology": swept.machine.name,
        "slices": swept.machine.slices,
        "devices": len(swept.machine.devices),
        "considered": swept.considered,
        "pruned_by_arithmetic": swept.pruned,
        "skipped_as_worse": swept.skipped,
        "left_by_limit": swept.untried,
        "fits": best is not None,
        "best": best.choice.options() if best else "",
        "verdict": verdict(swept),
        "tried": [_row(tried) for tried in swept.tried],
    }


def _row(attempt: sweep.Attempt) -> dict[str, Any]:
    program = attempt.program
    total = program.memory.total if program is not None and program.memory is not None else None
    basis = program is not None and program.estimate is not None and program.estimate.cycles
    return {
        "mesh": dict(attempt.choice.mesh),
        "micro_batches": attempt.choice.micro_batches,
        "remat": attempt.choice.remat,
        "fits": attempt.fits,
        "refused": attempt.reason,
        "memory_total": total,
        "memory_least_by_arithmetic": attempt.guess.least,
        "limit": program.limit if program is not None else None,
        "overflow": program.overflow._asdict()
        if program is not None and program.overflow
        else None,
        "estimated_update_seconds": program.seconds if program is not None else 0.0,
        "estimate_basis": "compiler cycles" if basis else "roofline",
        "estimated_update_mfu": attempt.utilisation,
        "options": attempt.choice.options(),
    }
