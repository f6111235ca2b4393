"""The gates of a ReviewWorld lifecycle, and its table of results."""

import dataclasses
import itertools
import math
from typing import Any

import numpy as np

from alignjax.lifecycles import lifecycle
from alignjax.worlds import oracle

Cell = dict[str, float]
LEARNED = 0.03  # nats a token between SFT and the generator, at most, for the exact curve to hold


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings:
    """All measurements, of every stage and of best-of-n."""

    excess: dict[str, Cell]
    reward: dict[str, Cell]
    evaluations: dict[str, dict[str, Any]]
    best_of_n: list[dict[str, Any]]
    frontier: oracle.Frontier
    own: dict[str, Any] | None = None  # the optimum of the SFT model itself, by its draws

    @property
    def is_learned(self) -> bool:
        """Whether SFT has learned the generator, so that the generator's optimum bounds it too."""
        return self.excess["sft"]["value"] <= LEARNED


def optimum_gain(frontier: oracle.Frontier, kl: float) -> float:
    """The exact optimum's gain over the reference at a KL; beyond the grid, at its end."""
    return float(frontier.gain_at(min(max(kl, 0.0), float(frontier.kl[-1]))))


def efficiency(findings: Findings, gold: Cell, kl: Cell) -> Cell:
    """Gain over SFT as a share of the exact optimum's gain at the same KL, with its error.

    The error joins those of both rewards and, by the curve's slope, that of the KL.
    """
    base = findings.evaluations["sft"]["gold"]
    best = optimum_gain(findings.frontier, kl["value"])
    if best <= 0:
        return {"value": math.nan, "se": math.nan}
    gain = gold["value"] - base["value"]
    width = max(kl["se"], 1e-6)
    slope = (
        optimum_gain(findings.frontier, kl["value"] + width)
        - optimum_gain(findings.frontier, kl["value"] - width)
    ) / (2 * width)
    error = math.hypot(gold["se"], base["se"], gain / best * slope * kl["se"])
    return {"value": gain / best, "se": error / best}


def _own_share(findings: Findings, gold: Cell, kl: float) -> dict[str, Cell]:
    """Gain over SFT as a share of the gain of SFT's own optimum at the same KL; {} where its draws
    do not reach. The error is that of the rewards."""
    own, base = findings.own, findings.evaluations["sft"]["gold"]
    if own is None or not 0 < kl <= own["kl"][-1]:
        return {}
    best = float(np.interp(math.sqrt(kl), np.sqrt(own["kl"]), own["reward"])) - own["reward"][0]
    if best <= 0:
        return {}
    error = math.hypot(gold["se"], base["se"]) / best
    return {"own": {"value": (gold["value"] - base["value"]) / best, "se": error}}


def gain_at(findings: Findings, stages_: list[str], kl: float) -> float:
    """The gain over SFT of a family of policies at a KL.

    Between its policies, in order of KL and beginning with SFT at 0, the gain is interpolated in
    sqrt(KL); beyond the last one its share of the exact optimum's gain is held.
    """
    runs = findings.evaluations
    base = runs["sft"]["gold"]["value"]
    points = sorted((runs[n]["kl"]["value"], runs[n]["gold"]["value"] - base) for n in stages_)
    last_kl, last_gain = points[-1]
    if kl > last_kl:
        share = last_gain / optimum_gain(findings.frontier, last_kl)
        return share * optimum_gain(findings.frontier, kl)
    roots = [0.0, *(math.sqrt(k) for k, _ in points)]
    return float(np.interp(math.sqrt(kl), roots, [0.0, *(g for _, g in points)]))


def _names(config: Any) -> tuple[list[str], list[str], list[str]]:
    return (
        [f"dpo-{b:g}" for b in sorted(config.dpo_betas, reverse=True)],
        [f"ppo-{b:g}" for b in sorted(config.ppo_betas, reverse=True)],
        [f"ppo-gold-{b:g}" for b in sorted(config.gold_betas, reverse=True)],
    )


def gates(config: Any, findings: Findings) -> list[lifecycle.Gate]:
    """The gates, in the order of the lifecycle."""
    gate, runs = lifecycle.Gate, findings.evaluations
    dpo, learned, gold = _names(config)
    share = {
        n: efficiency(findings, runs[n]["gold"], runs[n]["kl"])["value"]
        for n in dpo + learned + gold
    }
    base = runs["sft"]["gold"]
    result = [
        gate("pretraining excess, nats/token", findings.excess["pretrain"]["value"], "<=", 0.04),
        gate("SFT excess, nats/token", findings.excess["sft"]["value"], "<=", LEARNED),
        gate("RM: correlation with gold", runs["sft"]["correlation"]["value"], ">=", 0.75),
        gate("RM: pair accuracy", findings.reward["accuracy"]["value"], ">=", 0.80),
    ]
    for name in ("dpo-1", "ppo-0.3"):
        if name in runs:
            run = runs[name]["gold"]
            steps = (run["value"] - base["value"]) / math.hypot(run["se"], base["se"])
            result.append(gate(f"{name}: gain over SFT, standard errors", steps, ">", 10))
            result.append(gate(f"{name}: efficiency", share[name], ">=", 0.60))
            if gold:
                lead = gain_at(findings, gold, runs[name]["kl"]["value"]) - (
                    run["value"] - base["value"]
                )
                result.append(gate(f"PPO on gold: gain above {name} at its KL", lead, ">", 0))
    for family in (dpo, learned, gold):
        for strong, weak in itertools.pairwise(family):
            more = runs[weak]["kl"]["value"] - runs[strong]["kl"]["value"]
            result.append(gate(f"KL of {weak} above {strong}, nats", more, ">", 0))
    over = [row["kl"]["value"] - row["bound"] for row in findings.best_of_n]
    result.append(gate("best-of-n: KL above its bound, nats", max(over), "<=", 1e-9))
    shares = [*share.values(), *(_best_share(findings, row) for row in findings.best_of_n)]
    result.append(gate("largest efficiency of all", max(shares), "<=", 1.03))
    return result


def _best_share(findings: Findings, row: dict[str, Any]) -> float:
    return efficiency(findings, row["gold"], {"value": row["bound"], "se": 0.0})["value"]


def _row(findings: Findings, stage: str, label: str, family: str) -> dict[str, Any]:
    run = findings.evaluations[stage]
    metrics = {name: run[name] for name in ("gold", "kl", "proxy", "length", "illegal")}
    if stage in findings.excess:
        metrics["excess"] = findings.excess[stage]
    if stage not in ("pretrain", "sft"):
        metrics["efficiency"] = efficiency(findings, run["gold"], run["kl"])
        metrics |= _own_share(findings, run["gold"], run["kl"]["value"])
    if stage == "pretrain":
        del metrics["kl"]  # its reference is a later stage
    return {"stage": stage, "label": label, "family": family, "metrics": metrics}


def _best_row(findings: Findings, row: dict[str, Any]) -> dict[str, Any]:
    family = "best-of-n (RM)" if row["by"] == "rm" else "best-of-n (gold)"
    kl = {"value": row["bound"], "se": 0.0}
    metrics = {
        "gold": row["gold"],
        "kl": kl,
        "proxy": row["proxy"],
        "efficiency": efficiency(findings, row["gold"], kl),
        **_own_share(findings, row["gold"], kl["value"]),
    }
    label = f"{family} n={row['n']}"
    return {"stage": "best-of-n", "label": label, "family": family, "metrics": metrics}


def results(
    config: Any, findings: Findings, judged: list[lifecycle.Gate], space: lifecycle.Workspace
) -> dict[str, Any]:
    """The contents of results.json."""
    dpo, learned, gold = _names(config)
    rows = [_row(findings, "pretrain", "pretrained", "base"), _row(findings, "sft", "SFT", "SFT")]
    rows += [_row(findings, n, f"DPO β={n[4:]}", "DPO") for n in dpo]
    rows += [_row(findings, n, f"PPO on RM β={n[4:]}", "PPO (RM)") for n in learned]
    rows += [_row(findings, n, f"PPO on gold β={n[9:]}", "PPO (gold)") for n in gold]
    rows += [_best_row(findings, row) for row in findings.best_of_n]
    frontier = findings.frontier
    top = 1.15 * max([1.0, *(r["metrics"]["kl"]["value"] for r in rows if "kl" in r["metrics"])])
    grid = np.linspace(0, math.sqrt(min(top, float(frontier.kl[-1]))), 80) ** 2
    base = findings.evaluations["sft"]["gold"]["value"]
    rm, run = findings.reward, findings.evaluations["sft"]["correlation"]
    shown = ["sft", *(n for n in ("dpo-1", "ppo-0.3", "ppo-gold-1") if n in findings.evaluations)]
    return {
        "title": "ReviewWorld: from pretraining to alignment",
        "description": "Gold reward against exact KL to SFT, beside the exact KL-regularised "
        f"optimum of world {config.data.world.seed}; best-of-n at its bound log n - (n-1)/n. "
        f"Means over n = {findings.evaluations['sft']['gold']['n']} held-out prompts, one "
        f"completion each, best-of-n over {config.best_of_prompts} of them; ± is one standard "
        "error.",
        "environment": lifecycle.environment(),
        "command": space.told.get("command", ""),
        "seed": config.seed,
        "seconds": space.seconds,
        "columns": [
            _column("gold", "gold reward", "gold reward, reward units", 2),
            _column("kl", "KL, nats", "KL to SFT, nats a completion", 2),
            _column("efficiency", "efficiency", "efficiency, share of the exact gain", 3),
            _column("own", "of SFT's own", "gain, share of SFT's own optimum", 3),
            _column("proxy", "RM score", "RM score, reward units", 2),
            _column("length", "length, tokens", "length, tokens", 2),
            _column("illegal", "illegal, share", "illegal bigrams, share", 4),
            _column("excess", "excess, nats/token", "excess, nats a token", 4),
        ],
        "rows": rows,
        "frontier": {
            "kl": [float(k) for k in grid],
            "gold": [base + optimum_gain(frontier, float(k)) for k in grid],
            "label": "exact optimum",
            "x": "kl",
            "y": "gold",
            **_own_line(findings, base),
        },
        "curves": [
            {"stage": stage, "label": stage, "keys": keys}
            for stage, keys in (
                ("pretrain", ["nll"]),
                ("sft", ["nll"]),
                ("reward", ["bradley_terry"]),
                *((n, ["margin"]) for n in dpo[:1]),
                *((n, ["score", "kl"]) for n in (*learned[:1], *gold[:1])),
            )
        ],
        "samples": [
            {
                "prompt": findings.evaluations["sft"].get("prompts", [""] * 8)[i],
                "answers": [
                    {
                        "label": n,
                        "text": findings.evaluations[n]["texts"][i],
                        "score": findings.evaluations[n]["golds"][i],
                    }
                    for n in shown
                ],
            }
            for i in range(4)
        ],
        "gates": [g.as_dict() for g in judged],
        "notes": [
            f"Reward model: correlation with gold {_text(run)}, agrees with the true order of "
            f"{_text(rm['accuracy'])} of held-out pairs and with {_text(rm['label_accuracy'])} of "
            "their noisy labels.",
            f"The generator's own mean reward is {frontier.reference_reward:.2f}; efficiency is "
            "the gain over SFT as a share of the exact optimum's gain at the same KL.",
            *_bound_note(findings),
        ],
    }


def _column(key: str, short: str, label: str, digits: int) -> dict[str, Any]:
    """A column of the table: `short` heads it in a terminal, `label` with its unit on the page."""
    return {"key": key, "short": short, "label": label, "digits": digits}


def _own_line(findings: Findings, base: float) -> dict[str, Any]:
    """For the figure: the optimum of SFT itself, and which of the two lines bounds its policies."""
    own = findings.own
    if findings.is_learned or own is None:
        return {"is_bound": findings.is_learned}
    line = {"kl": own["kl"], "gold": [base + r - own["reward"][0] for r in own["reward"]]}
    label = "optimum of this SFT model (draws)"
    return {"is_bound": False, "own": {**line, "label": label}}


def _bound_note(findings: Findings) -> list[str]:
    if findings.is_learned:
        return []
    gap, own = findings.excess["sft"]["value"], findings.own
    drawn = "" if own is None else (
        f" Its own optimum is estimated from {own['draws']} draws for each of {own['prompts']} "
        f"prompts, up to {own['kl'][-1]:.2f} nats, as far as they carry."
    )  # fmt: skip
    return [
        f"This SFT model is {gap:.3f} nats a token from the generator (at most {LEARNED:g} counts "
        "as learned). The exact curve is the generator's, which no policy of a learned SFT model "
        "can pass; a model that has not learned it draws rewards of another mean and spread, and "
        f"its policies may lie above that curve, with an efficiency over 1.{drawn}"
    ]


def _text(cell: Cell) -> str:
    return f"{cell['value']:.3f} ± {cell['se']:.3f}"
