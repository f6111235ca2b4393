"""What AlignJAX aims at beside its peers, and whether it is there."""

from typing import Any, NamedTuple

from bench import workloads

# Times a peer's tokens a second, by workload.
SPEED = {
    "W1": {"tunix": 1.3, "trl": 1.0},
    "W1v": {"tunix": 2.5, "trl": 1.5},
    "W2": {"tunix": 1.3, "trl": 1.0},
    "W3": {"tunix": 1.3, "trl": 1.0},
    "W4": {"tunix": 1.3, "trl": 1.3},
    "W5ppo": {"tunix": 1.3},
    "W5ragged": {"tunix": 3.0, "trl": 3.0},
}
MEMORY, UNEVEN_MEMORY = 0.7, 0.5  # of the lower peak of the peers


class Verdict(NamedTuple):
    """A target beside what was measured; met is said of the measured number itself."""

    workload: str
    model: str
    what: str
    against: str
    target: str
    measured: str
    met: bool

    def __str__(self) -> str:
        return f"| {' | '.join(self[:-1])} | {'yes' if self.met else 'no'} |"


def judge(group: Any) -> list[Verdict]:
    """The verdicts on a group of results, `report.Group`."""
    model, _, name = group.key
    found = []
    for peer, target in SPEED.get(name, {}).items():
        if peer in group.peers:
            times = group.times(peer)
            found.append(
                Verdict(
                    name, model, "speed", workloads.ARMS[peer], f">= {target:g}", str(times),
                    times.value >= target,
                )
            )  # fmt: skip
    if group.peers:
        limit = MEMORY if workloads.WORKLOADS[name].lengths is None else UNEVEN_MEMORY
        lower = min(group.peers, key=group.peak)
        share = group.memory(lower)
        found.append(
            Verdict(
                name, model, "peak memory", workloads.ARMS[lower], f"<= {limit:g}",
                f"{share:.2f}", share <= limit,
            )
        )  # fmt: skip
    return found
