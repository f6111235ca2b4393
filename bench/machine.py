"""What this machine is and what it does at best."""

import json
import os
import pathlib
import platform
import subprocess
from typing import Any

from bench import processes

# Of the CPU's flags, those that say what its arithmetic can do.
WIDE = ("avx", "fma", "amx", "f16c", "sve", "asimd")


def about() -> dict[str, Any]:
    """CPU model, its vector flags, cores and system."""
    model, flags = platform.processor() or platform.machine(), ""
    info = pathlib.Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        name, _, value = (part.strip() for part in line.partition(":"))
        if name == "model name":
            model = value
        elif name in ("flags", "Features"):
            flags = value
    return {
        "cpu": model,
        "flags": " ".join(flag for flag in flags.split() if flag.startswith(WIDE)),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def load() -> list[float]:
    """Load averages over 1, 5 and 15 minutes."""
    return [round(x, 2) for x in os.getloadavg()]


def ceiling(pythons: dict[str, str], threads: int) -> dict[str, Any]:
    """Rates of products and copies, by framework; and the best of each, gflops and gbytes."""
    frameworks = {"numpy": "alignjax", "jax": "alignjax"}
    if "trl" in pythons:
        frameworks["torch"] = "trl"
    found = {}
    for framework, arm in frameworks.items():
        command = [pythons[arm], "-m", "bench.ceiling", framework, str(threads)]
        told = subprocess.run(
            processes.pinned(command, threads),
            env=processes.environment(threads),
            cwd=processes.ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found[framework] = json.loads(told.stdout)
    best = {rate: max(own[rate] for own in found.values()) for rate in ("gflops", "gbytes")}
    return {**best, "by": found}
