"""Records OpenRLHF 0.11.2: its loss modules, and the advantages of its experience maker.

In an environment with `pip install torch==2.13.0` and the wheel of openrlhf 0.11.2 on the path (but
not its package `tests`, which would hide this one), from the root of the repository:
python -m tests.conformance.record_openrlhf_0_11
"""

import functools
import types
from typing import Any

import numpy as np
import torch

from tests.conformance import golden, record, stubs

stubs.install(
    *("ray", "deepspeed", "vllm", "flash_attn", "ring_flash_attn", "torchdata", "optree"),
    *("wandb", "bitsandbytes", "pylatexenc", "latex2sympy2_extended", "math_verify", "aiohttp"),
)
from openrlhf.models import loss as reference  # noqa: E402
from openrlhf.models import utils  # noqa: E402
from openrlhf.trainer import dpo_trainer  # noqa: E402
from openrlhf.trainer.ppo_utils import experience_maker, kl_controller  # noqa: E402

PRESET = "openrlhf-0.11"
SEEDS = (0, 1)
GROUP = 3
K1 = (
    "its default estimator as a loss is k1, whose expected gradient is zero: AlignJAX refuses it; "
    "compared here is k2, whose expected gradient is that of KL(pi; ref)"
)
OVERFLOW = "LogExpLoss overflows: infinite once exp(s_r - s_c) is; the loss is about s_r - s_c"
HOLES = (
    "tokens between a row's counted ones (another speaker's turn) are steps with value 0 there, so "
    "that the bootstrap is lost across a turn; AlignJAX goes on to the next counted token"
)
Arrays = dict[str, torch.Tensor]


# --- inputs ---
def draw_pairs(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    out: dict[str, np.ndarray] = {}
    for side in ("chosen", "rejected"):
        mask = record.ragged_mask(rng)
        logprobs = record.logprobs(rng, mask)
        near = record.near(rng, logprobs, mask)
        out |= {f"{side}_mask": mask, f"{side}_logprobs": logprobs}
        out |= {f"reference_{side}_logprobs": near}
    return out


def draw_scores(seed: int, margin: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = [rng.normal(size=record.B).astype(np.float32) * 3 for _ in range(3)]
    out = {"chosen_scores": scores[0], "rejected_scores": scores[1]}
    return {**out, "margin": np.abs(scores[2])} if margin else out


def draw_policy(seed: int, *, per_row: bool = False) -> dict[str, np.ndarray]:
    """Seed 1 holds log-ratios beyond 20 nats as well."""
    rng = np.random.default_rng(seed)
    mask = record.ragged_mask(rng)
    logprobs = record.logprobs(rng, mask)
    old = record.near(rng, logprobs, mask)
    if seed == 1 and not per_row:
        far = np.argwhere(mask)[[0, 3, 7]]
        old[tuple(far.T)] = np.float32([-40.0, -26.0, -0.01])
        logprobs[tuple(far.T)] = np.float32([-1.0, -0.5, -30.0])
    return {
        "mask": mask,
        "logprobs": logprobs,
        "old_logprobs": old,
        "sampler_logprobs": record.near(rng, old, mask, 0.6),
        "reference_logprobs": record.near(rng, logprobs, mask, 4.0),
        "advantages": rng.normal(size=record.B if per_row else mask.shape).astype(np.float32),
    }


def draw_values(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = record.ragged_mask(rng)
    values = rng.normal(size=mask.shape).astype(np.float32)
    old = (values + 0.6 * rng.normal(size=mask.shape)).astype(np.float32)
    returns = rng.normal(size=mask.shape).astype(np.float32)
    return {"mask": mask, "values": values, "old_values": old, "returns": returns}


def draw_rollouts(seed: int, *, holes: bool = False) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = record.ragged_mask(rng)
    if holes:
        mask[:, :] = 1
        mask[:, 3:5] = 0
    logprobs = record.logprobs(rng, mask)
    return {
        "mask": mask,
        "rewards": (6 * rng.normal(size=(record.B // GROUP, GROUP))).astype(np.float32),
        "values": rng.normal(size=mask.shape).astype(np.float32),
        "logprobs": logprobs,
        "reference_logprobs": record.near(rng, logprobs, mask),
    }


# --- its losses ---
def pair_loss(arrays: Arrays, *, ipo: bool, **options: float) -> torch.Tensor:
    """DPOTrainer's sums and means of log-probabilities, its DPOLoss, its mix with the NLL."""
    made = types.SimpleNamespace()
    both: list[Any] = []
    for prefix in ("", "reference_"):
        found = []
        for side in ("chosen", "rejected"):
            mask = arrays[f"{side}_mask"]
            first = mask.argmax(1)
            ends = torch.where(torch.arange(mask.shape[1]) < first[:, None], 1, mask)
            rows = arrays[f"{prefix}{side}_logprobs"][:, 1:]  # it has none for the first token
            found.append(dpo_trainer.DPOTrainer._get_batch_logps(made, rows, ends, first))
        both.append(found)
    (chosen, rejected), reference_logps = both
    nll_weight = options.pop("nll_weight", 0.0)
    loss = reference.DPOLoss(options.pop("beta"), ipo=ipo, **options)
    value = loss(chosen[0], rejected[0], *[sums for sums, _ in reference_logps])[0]
    return value - nll_weight * chosen[1].mean()


def scores_loss(arrays: Arrays, *, log_exp: bool) -> torch.Tensor:
    loss = reference.LogExpLoss() if log_exp else reference.PairWiseLoss()
    return loss(arrays["chosen_scores"], arrays["rejected_scores"], arrays.get("margin"))


def policy_loss(arrays: Arrays, *, kind: str, **options: Any) -> torch.Tensor:
    correction = options.pop("correction", None)
    level = {None: "off", False: "off", "sequence": "seq"}.get(correction, "token")
    made = reference.PolicyLoss(
        options.pop("clip_low", 0.2),
        options.pop("clip_high", 0.2),
        options.pop("dual_clip", None),
        token_level_loss=options.pop("reduction", "token_mean") == "token_mean",
        policy_loss_type=kind,
        is_correction_level=level,
        is_correction_mode={"drop": "mask", "truncate": "clip"}[options.pop("beyond", "drop")],
        is_correction_threshold=[options.pop("minimum", 0.5), options.pop("maximum", 5.0)],
    )
    assert not options, options
    advantages = arrays["advantages"]
    given = arrays["logprobs"], arrays["old_logprobs"]
    advantages = advantages[:, None].expand_as(given[0]) if advantages.ndim == 1 else advantages
    return made(*given, advantages, arrays["mask"], arrays["sampler_logprobs"])[0]


def sft_loss(arrays: Arrays, *, reduction: str) -> torch.Tensor:
    made = reference.SFTLoss(token_level_loss=reduction == "token_mean")
    return made(arrays["token_logprobs"], arrays["mask"])


def value_loss(arrays: Arrays, *, clip: float | None, reduction: str) -> torch.Tensor:
    made = reference.ValueLoss(clip, token_level_loss=reduction == "token_mean")
    return made(*[arrays[name] for name in ("values", "old_values", "returns", "mask")])


def kl_loss(
    arrays: Arrays, *, weight: float, estimator: str, exact_gradient: bool, reduction: str
) -> torch.Tensor:
    kl = utils.compute_approx_kl(
        arrays["logprobs"],
        arrays["reference_logprobs"],
        log_probs_old=arrays["old_logprobs"],
        kl_estimator=estimator,
        unbiased_gradient=exact_gradient,
    )
    level = reduction == "token_mean"
    return weight * reference.aggregate_loss(kl, arrays["mask"], token_level_loss=level)


def controlled(arrays: Arrays, *, target: float | None, horizon: float) -> torch.Tensor:
    start = float(arrays["coefficient"])
    made: Any = kl_controller.FixedKLController(start)
    if target is not None:
        made = kl_controller.AdaptiveKLController(start, target, horizon)
    made.update(float(arrays["observed"]), float(arrays["samples"]))
    return torch.tensor(made.value, dtype=torch.float64)


ESTIMATORS = {
    "gae": "gae",
    "returns": "gae",
    "reinforce_plus_plus": "reinforce",
    "reinforce_plus_plus_baseline": "reinforce_baseline",
    "leave_one_out": "rloo",
    "group_relative": "group_norm",
    "flash_reinforce": "flash_reinforce",
}


def advantages(arrays: Arrays, *, method: str, **options: Any) -> torch.Tensor:
    """Its experience maker on one batch; masked entries, which no loss reads, are zeroed."""
    estimator = ESTIMATORS[method] if options.pop("scale", True) else "dr_grpo"
    cap = options.pop("cap", 10.0)
    advantage = types.SimpleNamespace(
        estimator=estimator,
        gamma=options.pop("discount", 1.0),
        lambd=options.pop("decay", 1.0),
        no_std_norm=not options.pop("normalise", True),
    )
    reward = types.SimpleNamespace(
        clip_range=cap and (-cap, cap), overlong_buffer_len=None, stop_properly_penalty_coef=None
    )
    args = types.SimpleNamespace(
        algo=types.SimpleNamespace(advantage=advantage),
        rollout=types.SimpleNamespace(n_samples_per_prompt=GROUP),
        reward=reward,
    )
    made = experience_maker.RemoteExperienceMaker.__new__(experience_maker.RemoteExperienceMaker)
    made.strategy, made.args = types.SimpleNamespace(args=args), args
    made.advantage_estimator = estimator
    made.kl_ctl = types.SimpleNamespace(value=options.pop("kl_weight", 0.01))
    kl = utils.compute_approx_kl(
        arrays["logprobs"],
        arrays["reference_logprobs"],
        kl_estimator=options.pop("estimator", "k1"),
    )
    assert not options, options
    mask = arrays["mask"]
    batch = types.SimpleNamespace(
        rewards=arrays["rewards"].reshape(-1),
        index=list(range(len(mask))),
        kl=kl,
        action_mask=mask,
        values=arrays["values"],
        info={},
    )
    (found,) = made.compute_advantages_and_returns([batch])
    return (found.returns if method == "returns" else found.advantages) * mask


# --- cases ---
def case(method: str, call: Any, inputs: dict, options: dict, seed: int, **more: Any) -> Any:
    return record.golden(
        call, inputs, preset=PRESET, method=method, options=options, seed=seed, **more
    )


def pair_cases(seed: int) -> list[golden.Golden]:
    wrt = ("chosen_logprobs", "rejected_logprobs")
    found = []
    for method, options in [
        ("dpo", {"beta": 0.3}),
        ("dpo", {"beta": 0.3, "label_smoothing": 0.1}),
        ("dpo", {"beta": 0.3, "nll_weight": 0.2}),
        ("ipo", {"beta": 0.3}),
        ("ipo", {"beta": 0.3, "nll_weight": 0.2}),
    ]:
        call = functools.partial(pair_loss, ipo=method == "ipo", **options)
        found.append(case(method, call, draw_pairs(seed), options, seed, wrt=wrt))
    wrt = ("chosen_scores", "rejected_scores")
    for log_exp, margin in ((False, False), (False, True), (True, False)):
        call = functools.partial(scores_loss, log_exp=log_exp)
        found.append(case("bradley_terry", call, draw_scores(seed, margin), {}, seed, wrt=wrt))
    far = draw_scores(seed, False)
    far["rejected_scores"] = far["rejected_scores"] + np.float32(800)
    call = functools.partial(scores_loss, log_exp=True)
    more = {"wrt": (), "difference": OVERFLOW}
    return [*found, case("bradley_terry", call, far, {}, seed, **more)]


CORRECTIONS = [
    {"correction": "token"},
    {"correction": "token", "minimum": 0.8, "maximum": 1.5},
    {"correction": "token", "minimum": 0.8, "maximum": 1.5, "beyond": "truncate"},
    {"correction": "sequence", "minimum": 0.9, "maximum": 1.1},
]


def policy_cases(seed: int) -> list[golden.Golden]:
    found = []
    for options in [
        {},
        {"clip_low": 0.1, "clip_high": 0.28},
        {"dual_clip": 3.0},
        {"dual_clip": 1.1, "reduction": "row_mean"},
        {"reduction": "row_mean"},
        *CORRECTIONS,
    ]:
        call = functools.partial(policy_loss, kind="ppo", **options)
        found.append(case("ppo_clip", call, draw_policy(seed), options, seed, wrt=("logprobs",)))
    for options in [{}, {"clip_low": 0.01, "clip_high": 0.02}, {"dual_clip": 1.05}]:
        for extra in ({}, {"correction": True}):
            both = {**options, **extra}
            call = functools.partial(policy_loss, kind="gspo", **both)
            inputs = draw_policy(seed, per_row=True)
            found.append(case("gspo", call, inputs, both, seed, wrt=("logprobs",)))
    for reduction in ("token_mean", "row_mean"):
        for options in ({"clip": 0.5}, {"clip": None}):
            both = {**options, "reduction": reduction}
            call = functools.partial(value_loss, **both)
            found.append(case("value_clip", call, draw_values(seed), both, seed, wrt=("values",)))
    return found


def kl_cases(seed: int) -> list[golden.Golden]:
    defaults = {
        "weight": 0.01,
        "estimator": "k1",
        "exact_gradient": False,
        "reduction": "token_mean",
    }
    found = []
    for options in [
        *[{"estimator": k, "weight": 1.0} for k in ("k2", "k3")],
        {"estimator": "k3", "weight": 1.0, "reduction": "row_mean"},
        *[{"estimator": k, "weight": 1.0, "exact_gradient": True} for k in ("k1", "k2", "k3")],
    ]:
        call = functools.partial(kl_loss, **{**defaults, **options})
        found.append(case("kl_loss", call, draw_policy(seed), options, seed, wrt=("logprobs",)))
    call = functools.partial(kl_loss, **defaults)
    options, more = {"estimator": "k2"}, {"wrt": ("logprobs",), "difference": K1}
    return [*found, case("kl_loss", call, draw_policy(seed), options, seed, **more)]


def other_cases(seed: int) -> list[golden.Golden]:
    found = []
    for reduction in ("token_mean", "row_mean"):
        drawn = draw_policy(seed)
        inputs = {"token_logprobs": drawn["logprobs"], "mask": drawn["mask"]}
        call = functools.partial(sft_loss, reduction=reduction)
        options = {"reduction": reduction}
        found.append(case("token_nll", call, inputs, options, seed, wrt=("token_logprobs",)))
    for observed in (2.0, 6.5, 30.0):
        inputs = {"coefficient": 0.05, "observed": observed, "samples": 128.0}
        arrays = {k: np.float32(v) for k, v in inputs.items()}
        for options in ({"target": 6.0, "horizon": 500.0}, {"target": None, "horizon": 500.0}):
            call = functools.partial(controlled, **options)
            found.append(case("adaptive_kl", call, arrays, options, seed, wrt=()))
    return found


def advantage_cases(seed: int) -> list[golden.Golden]:
    found = []
    for method in ESTIMATORS:
        variants: list[dict[str, Any]] = [{}, {"kl_weight": 0.0, "cap": None}]
        variants += [{"kl_weight": 0.1, "estimator": "k3", "cap": 1.0}]
        if method in ("gae", "returns", "reinforce_plus_plus"):
            variants += [{"discount": 0.9}]
        if method in ("gae", "reinforce_plus_plus", "reinforce_plus_plus_baseline"):
            variants += [{"normalise": False}]
        variants += [{"discount": 0.9, "decay": 0.8}] if method in ("gae", "returns") else []
        variants += [{"scale": False}] if method == "group_relative" else []
        for options in variants:
            call = functools.partial(advantages, method=method, **options)
            found.append(case(method, call, draw_rollouts(seed), options, seed, wrt=()))
    small, options = draw_rollouts(seed), {"kl_weight": 0.0}
    small["rewards"] *= np.float32(1e-6)  # where eps is felt
    call = functools.partial(advantages, method="group_relative", **options)
    found.append(case("group_relative", call, small, options, seed, wrt=()))
    options = {"discount": 0.9, "decay": 0.8}
    call = functools.partial(advantages, method="gae", **options)
    inputs = draw_rollouts(seed, holes=True)
    return [*found, case("gae", call, inputs, options, seed, wrt=(), difference=HOLES)]


def main() -> None:
    versions = record.versions(openrlhf="0.11.2")
    for part, cases in {
        "pairs": pair_cases,
        "policy": policy_cases,
        "kl": kl_cases,
        "other": other_cases,
        "advantages": advantage_cases,
    }.items():
        found = [x for seed in SEEDS for x in cases(seed)]
        print(golden.save(f"{PRESET}-{part}", found, versions), len(found))


if __name__ == "__main__":
    main()
