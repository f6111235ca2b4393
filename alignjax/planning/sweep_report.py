"""A sweep for people and for machines."""

from typing import Any

from alignjax.planning import report, sweep

HEAD = ("mesh", "micro", "remat", "HBM", "fits", "est. update s", "est. MFU")


def _cells(each: sweep.Tried, timed: bool) -> tuple[str, ...]:
    mesh = " ".join(f"{name} {size}" for name, size in each.choice.mesh if size > 1) or "1 device"
    found = each.found
    own = (mesh, str(each.choice.micro_batches), each.choice.remat)
    if found is None:
        return (*own, "-", "refused", "-", "-")
    if found.overflow is not None or found.memory is None:
        needed = found.overflow.needed if found.overflow else 0
        return (*own, report.size(needed) if needed else "-", "no", "-", "-")
    seconds = f"{found.seconds:.3g}" if timed else "-"
    used = f"{each.utilisation:.1%}" if each.utilisation else "-"
    return (*own, report.size(found.memory.total), "yes" if found.fits else "no", seconds, used)


def text(made: sweep.Sweep) -> str:
    """The table, and what was left out."""
    timed = made.machine.chip.flops > 0
    rows = [HEAD, *(_cells(each, timed) for each in made.tried)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    lines = [
        "  ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    lines += [f"  refused: {x.choice.options()}: {x.reason}" for x in made.tried if x.reason]
    lines.append(summary(made))
    if not timed:
        lines.append("no times are known on this machine: ordered by memory")
    lines.append(verdict(made))
    return "\n".join(lines)


def summary(made: sweep.Sweep) -> str:
    """How many choices were not compiled, and why."""
    parts = [f"{made.considered} choices divide the run"]
    parts.append(f"{made.pruned} of them can't fit by arithmetic")
    parts.append(f"{made.skipped} are worse than one of the same mesh that was tried")
    parts.append(f"{len(made.tried)} were compiled (the update alone)")
    if made.left:
        parts.append(f"{made.left} are left: raise --compiles to try them")
    return ", ".join(parts)


def verdict(made: sweep.Sweep) -> str:
    """One line: the best that fits."""
    best = made.best
    if best is None:
        return (
            f"verdict: nothing that was tried fits {made.machine.name}; use more devices, adapters "
            "or model.param_dtype=bfloat16"
        )
    return f"verdict: best that fits {made.machine.name}: {best.choice.options()}"


def table(made: sweep.Sweep, config: str = "") -> dict[str, Any]:
    """The same for JSON."""
    best = made.best
    return {
        "config": config,
        "versions": report.versions(),
        "topology": made.machine.name,
        "slices": made.machine.slices,
        "devices": len(made.machine.devices),
        "considered": made.considered,
        "pruned_by_arithmetic": made.pruned,
        "skipped_as_worse": made.skipped,
        "left_by_limit": made.left,
        "fits": best is not None,
        "best": best.choice.options() if best else "",
        "verdict": verdict(made),
        "tried": [_row(each) for each in made.tried],
    }


def _row(each: sweep.Tried) -> dict[str, Any]:
    found = each.found
    total = found.memory.total if found is not None and found.memory is not None else None
    basis = found is not None and found.estimate is not None and found.estimate.cycles
    return {
        "mesh": dict(each.choice.mesh),
        "micro_batches": each.choice.micro_batches,
        "remat": each.choice.remat,
        "fits": each.fits,
        "refused": each.reason,
        "memory_total": total,
        "memory_least_by_arithmetic": each.guess.least,
        "limit": found.limit if found is not None else None,
        "overflow": found.overflow._asdict() if found is not None and found.overflow else None,
        "estimated_update_seconds": found.seconds if found is not None else 0.0,
        "estimate_basis": "compiler cycles" if basis else "roofline",
        "estimated_update_mfu": each.utilisation,
        "options": each.choice.options(),
    }
