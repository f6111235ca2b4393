"""Records verl 0.9.1: the losses, KL estimates and advantages of trainer/ppo/core_algos.py.

In an environment with `pip install torch==2.13.0 tensordict omegaconf` and the wheel of verl 0.9.1
on the path (but not its package `tests`, which would hide this one), from the root of the
repository: python -m tests.conformance.record_verl_0_9
"""

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from tests.conformance import golden, record, stubs

stubs.install("ray", "codetiming", "hydra", "orjson", "cachetools", "aiohttp", "zmq", "flash_attn")
from verl.trainer.ppo import core_algos, rollout_corr_helper  # noqa: E402
from verl.workers.config import ActorConfig, PolicyLossConfig  # noqa: E402

PRESET = "verl-0.9"
SEEDS = (0, 1)
GROUP = 3
MODES = {
    "token_mean": "token-mean",
    "row_mean": "seq-mean-token-mean",
    "row_sum": "seq-mean-token-sum",
    "row_fixed": "seq-mean-token-sum-norm",
}
ESTIMATORS = {"k1": "kl", "k2": "mse", "k3": "low_var_kl"}
K1 = (
    "k1 (kl_loss_type 'kl') as a loss has expected gradient zero: AlignJAX refuses it; compared "
    "here is k2, whose expected gradient is that of KL(pi; ref)"
)
ZEROED = (
    "verl sets the losses of the drawn tokens to 0, AlignJAX detaches them, so that the reported "
    "loss stays that of PPO; gradients agree"
)
LONE = "a group of one answer keeps its raw reward there; without a baseline AlignJAX gives 0"
NONZERO = (
    "verl scales by samples / samples with a reward other than 0, the paper by samples / samples "
    "in groups with unequal rewards: a group of all-right answers has no gradient either"
)
Arrays = dict[str, torch.Tensor]


# --- inputs ---
def draw_policy(seed: int, *, far: bool = True, per_row: bool = False) -> dict[str, np.ndarray]:
    """Seed 1 holds log-ratios beyond 20 nats as well, if `far`."""
    rng = np.random.default_rng(seed)
    mask = record.ragged_mask(rng)
    logprobs = record.logprobs(rng, mask)
    old = record.near(rng, logprobs, mask)
    if seed == 1 and far:
        places = tuple(np.argwhere(mask)[[0, 3, 7]].T)
        old[places] = np.float32([-40.0, -26.0, -0.01])
        logprobs[places] = np.float32([-1.0, -0.5, -30.0])
    advantages = rng.normal(size=(record.B, 1) if per_row else mask.shape)
    return {
        "mask": mask,
        "logprobs": logprobs,
        "old_logprobs": old,
        "sampler_logprobs": record.near(rng, old, mask, 0.6),
        "reference_logprobs": record.near(rng, logprobs, mask, 4.0),
        "advantages": np.broadcast_to(advantages, mask.shape).astype(np.float32),
    }


def draw_weights(seed: int, **options: bool) -> dict[str, np.ndarray]:
    found = draw_policy(seed, **options)
    rng = np.random.default_rng(seed + 100)
    return {**found, "token_weights": rng.uniform(0, 2, found["mask"].shape).astype(np.float32)}


def draw_values(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = record.ragged_mask(rng)
    values = rng.normal(size=mask.shape).astype(np.float32)
    old = (values + 0.6 * rng.normal(size=mask.shape)).astype(np.float32)
    returns = rng.normal(size=mask.shape).astype(np.float32)
    return {"mask": mask, "values": values, "old_values": old, "returns": returns}


def draw_token_rewards(seed: int, *, holes: bool) -> dict[str, np.ndarray]:
    """With `holes`, other speakers' turns lie between the counted tokens."""
    rng = np.random.default_rng(seed)
    mask = record.ragged_mask(rng)
    if holes:
        mask[:, :] = 1
        mask[:, 3:5] = 0
    out = {name: rng.normal(size=mask.shape).astype(np.float32) for name in ("rewards", "values")}
    return {"mask": mask, **{name: x * mask for name, x in out.items()}}


def draw_scores(seed: int, group: int, *, binary: bool = False) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = record.ragged_mask(rng)
    shape = (record.B // group, group)
    rewards = np.float32([[1, 1, 1], [1, 0, 0]]) if binary else rng.normal(size=shape)
    return {"mask": mask, "rewards": rewards.astype(np.float32)}


# --- its losses ---
def config(
    *, clip_low: float = 0.2, clip_high: float = 0.2, length: Any = None, **more: Any
) -> ActorConfig:
    covariance = {
        name: more.pop(ours)
        for ours, name in {
            "minimum": "clip_cov_lb",
            "maximum": "clip_cov_ub",
            "penalty": "ppo_kl_coef",
            "beta": "dro_beta",
        }.items()
        if ours in more
    }
    if "fraction" in more:
        covariance |= dict.fromkeys(("clip_cov_ratio", "kl_cov_ratio"), more.pop("fraction"))
    renamed = {
        "dual_clip": "clip_ratio_c",
        "positive_temperature": "tau_pos",
        "negative_temperature": "tau_neg",
    }
    return ActorConfig(
        strategy="fsdp",
        rollout_n=1,
        use_dynamic_bsz=True,
        clip_ratio_low=clip_low,
        clip_ratio_high=clip_high,
        policy_loss=PolicyLossConfig(**covariance),
        global_batch_info={"loss_scale_factor": length},
        **{renamed[name]: value for name, value in more.items()},
    )


def policy_loss(arrays: Arrays, *, name: str, **options: Any) -> torch.Tensor:
    mode = MODES[options.pop("reduction", "token_mean")]
    registered = {**core_algos.POLICY_LOSS_REGISTRY, "": core_algos.compute_policy_loss_reinforce}
    given = [arrays[k] for k in ("old_logprobs", "logprobs", "advantages", "mask")]
    weights = arrays.get("token_weights")
    return registered[name](*given, mode, config(**options), weights)[0]


def value_loss(
    arrays: Arrays, *, clip: float = 0.5, reduction: str = "token_mean", length: Any = None
) -> torch.Tensor:
    given = [arrays[name] for name in ("values", "returns", "old_values", "mask")]
    return core_algos.compute_value_loss(*given, clip, MODES[reduction], loss_scale_factor=length)[
        0
    ]


def entropy_loss(arrays: Arrays, *, reduction: str = "token_mean") -> torch.Tensor:
    """Its reduction of entropies that are given; the actor subtracts it."""
    core_algos.verl_F.entropy_from_logits = lambda entropy: entropy
    given = arrays["entropy"], arrays["mask"]
    return -core_algos.compute_entropy_loss(*given, loss_agg_mode=MODES[reduction])


def kl_loss(
    arrays: Arrays,
    *,
    estimator: str = "k3",
    exact_gradient: bool = False,
    weight: float = 0.001,
    reduction: str = "token_mean",
) -> torch.Tensor:
    """As verl's actor adds it."""
    kind = ESTIMATORS[estimator] + "+" * exact_gradient
    kl = core_algos.kl_penalty(arrays["logprobs"], arrays["reference_logprobs"], kind)
    return weight * core_algos.agg_loss(kl, arrays["mask"], MODES[reduction])


def kl_penalty(arrays: Arrays, *, estimator: str) -> torch.Tensor:
    given = arrays["logprobs"], arrays["reference_logprobs"], ESTIMATORS[estimator]
    return core_algos.kl_penalty(*given).detach() * arrays["mask"]


def sampler_weight(arrays: Arrays, **options: Any) -> torch.Tensor:
    low, high = options.pop("minimum", None), options.pop("maximum", 2.0)
    drop = options.pop("beyond", "truncate") == "drop"
    return rollout_corr_helper.compute_rollout_correction_weights(
        arrays["old_logprobs"] - arrays["sampler_logprobs"],
        arrays["mask"],
        rollout_is=options.pop("level", "sequence"),
        rollout_is_threshold=f"{low}_{high}" if drop else high,
    )[0]


# --- its advantages ---
def at_last(per_row: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    last = mask.shape[1] - 1 - mask.flip(1).argmax(1)
    return torch.zeros(mask.shape, dtype=per_row.dtype).scatter(1, last[:, None], per_row[:, None])


def outcome(arrays: Arrays, *, name: str, whole: bool = False, **options: Any) -> torch.Tensor:
    """[P, N], what it gives each row's tokens; [B, T] if `whole`."""
    mask, rewards = arrays["mask"], arrays["rewards"]
    index = np.repeat(np.arange(rewards.shape[0]), rewards.shape[1])
    renamed = {"scale": "norm_adv_by_std_in_grpo", "eps": "epsilon"}
    found = core_algos.get_adv_estimator_fn(name)(
        at_last(rewards.reshape(-1), mask),
        mask,
        index=index,
        **{renamed[option]: value for option, value in options.items()},
    )[0]
    if whole:
        return found
    per_row = found.sum(1) / mask.sum(1)
    assert torch.allclose(found, per_row[:, None] * mask)
    return per_row.reshape(rewards.shape)


def gdpo(arrays: Arrays, **options: Any) -> torch.Tensor:
    rewards, mask = arrays["rewards"], arrays["mask"]
    keys = [f"reward{k}" for k in range(rewards.shape[-1])]
    each = {key: rewards[..., k].reshape(-1).numpy() for k, key in enumerate(keys)}
    weights = arrays["reward_weights"].tolist()
    return core_algos.compute_gdpo_outcome_advantage(
        torch.zeros(mask.shape),
        mask,
        np.repeat(np.arange(rewards.shape[0]), rewards.shape[1]),
        config={"gdpo_reward_keys": keys, "gdpo_reward_weights": weights},
        non_tensor_batch=each,
        batch={"prompts": torch.zeros(len(mask), 0), "attention_mask": mask},
    )[0]


def gae(arrays: Arrays, *, part: int, discount: float = 1.0, decay: float = 1.0) -> torch.Tensor:
    """Advantages (part 0) or returns (1); masked entries, which no loss reads, are zeroed."""
    given = arrays["rewards"], arrays["values"], arrays["mask"], discount, decay
    return core_algos.compute_gae_advantage_return(*given)[part] * arrays["mask"]


def reinforce_plus_plus(arrays: Arrays, *, discount: float = 1.0) -> torch.Tensor:
    made = core_algos.AlgoConfig(gamma=discount)
    given = arrays["rewards"], arrays["mask"], made
    return core_algos.compute_reinforce_plus_plus_outcome_advantage(*given)[0]


def remax(arrays: Arrays) -> torch.Tensor:
    given = arrays["rewards"], arrays["greedy_rewards"], arrays["mask"]
    return core_algos.compute_remax_outcome_advantage(*given)[0] * arrays["mask"]


def controlled(arrays: Arrays, *, target: float, horizon: float) -> torch.Tensor:
    made = core_algos.AdaptiveKLController(float(arrays["coefficient"]), target, horizon)
    made.update(float(arrays["observed"]), float(arrays["samples"]))
    return torch.tensor(made.value, dtype=torch.float64)


# --- cases: (method, call, inputs, options, what is differentiated, difference) ---
POLICY: list[tuple[str, str, dict[str, Any]]] = [
    ("ppo_clip", "vanilla", {}),
    ("ppo_clip", "vanilla", {"clip_low": 0.1, "clip_high": 0.28, "dual_clip": 1.5}),
    *[("ppo_clip", "vanilla", {"reduction": mode}) for mode in MODES],
    ("ppo_clip", "vanilla", {"reduction": "row_fixed", "length": 20}),
    ("gspo_token", "gspo", {"reduction": "row_mean"}),
    ("gspo_token", "gspo", {"clip_low": 0.01, "clip_high": 0.02}),
    ("sapo", "sapo", {}),
    ("sapo", "sapo", {"positive_temperature": 2.0, "negative_temperature": 3.0}),
    ("cispo", "cispo", {}),
    ("cispo", "cispo", {"clip_low": 0.5, "clip_high": 4.0, "reduction": "row_sum"}),
    ("dro", "dro", {"beta": 0.3}),
    ("reinforce", "gpg", {}),
    *[("reinforce", "", {"reduction": mode}) for mode in MODES],
    ("clip_cov", "clip_cov", {"minimum": 1e6, "maximum": 1e7}),
    ("kl_cov", "kl_cov", {}),
    ("kl_cov", "kl_cov", {"fraction": 0.3, "penalty": 1.0, "reduction": "row_mean"}),
    ("gmpo", "geo_mean", {}),
    ("gmpo", "geo_mean", {"clip_low": 0.4, "clip_high": 0.4}),
]
# These do not limit log-ratios to +-20 nats, or limit other ones.
UNLIMITED = ("gspo_token", "dro", "clip_cov", "kl_cov", "gmpo")


def policy_cases(seed: int) -> Iterable[tuple[Any, ...]]:
    key = {"key": np.array([0, seed], np.uint32)}
    for method, name, options in POLICY:
        draws = [draw_policy, draw_weights] if method != "gmpo" else [draw_policy]
        for draw in draws:
            inputs = draw(seed, far=method not in UNLIMITED, per_row=method == "gmpo")
            inputs |= key if method == "clip_cov" else {}
            call = functools.partial(policy_loss, name=name, **options)
            yield method, call, inputs, options, ("logprobs",), ""
    empty = draw_policy(seed, far=False, per_row=True)
    empty["mask"][2] = 0
    yield "gmpo", functools.partial(policy_loss, name="geo_mean"), empty, {}, ("logprobs",), ""
    # All tokens with a covariance above the minimum are drawn: no chance is left.
    options = {"fraction": 0.5, "minimum": 0.7, "maximum": 9.0, "clip_low": 1.0, "clip_high": 9.0}
    call = functools.partial(policy_loss, name="clip_cov", **options)
    inputs = draw_policy(seed, far=False) | key
    yield "clip_cov", call, inputs, options, ("logprobs",), ZEROED


def other_cases(seed: int) -> Iterable[tuple[Any, ...]]:
    for options in [{}, {"clip": 0.2}, {"reduction": "row_fixed", "length": 30}]:
        options = {"reduction": "token_mean", **options}
        call = functools.partial(value_loss, **options)
        yield "value_clip", call, draw_values(seed), options, ("values",), ""
    for mode in MODES:
        values = draw_values(seed)
        inputs = {"entropy": np.abs(values["values"]), "mask": values["mask"]}
        call = functools.partial(entropy_loss, reduction=mode)
        yield "entropy_bonus", call, inputs, {"reduction": mode}, ("entropy",), ""
    inputs = draw_policy(seed)
    for options in [
        *[{"estimator": k, "weight": 1.0} for k in ("k2", "k3")],
        *[{"estimator": k, "weight": 1.0, "exact_gradient": True} for k in ("k1", "k3")],
        {"weight": 0.1, "reduction": "row_mean"},
        {},
    ]:
        call = functools.partial(kl_loss, **options)
        yield "kl_loss", call, inputs, options, ("logprobs",), ""
    call = functools.partial(kl_loss, estimator="k1")
    yield "kl_loss", call, inputs, {"estimator": "k2"}, ("logprobs",), K1
    for k in ESTIMATORS:
        call = functools.partial(kl_penalty, estimator=k)
        yield "kl_penalty", call, inputs, {"estimator": k}, (), ""
    for options in [
        {},
        {"level": "token"},
        {"level": "token", "beyond": "drop", "minimum": 0.5, "maximum": 1.5},
        {"beyond": "drop", "minimum": 0.2, "maximum": 3.0},
    ]:
        call = functools.partial(sampler_weight, **options)
        yield "sampler_weight", call, inputs, options, (), ""
    for observed in (0.01, 0.105, 3.0):
        numbers = {"coefficient": 0.05, "observed": observed, "samples": 128.0}
        inputs, options = {k: np.float32(v) for k, v in numbers.items()}, {"horizon": 500.0}
        call = functools.partial(controlled, target=0.1, **options)
        yield "adaptive_kl", call, inputs, options, (), ""


def advantage_cases(seed: int) -> Iterable[tuple[Any, ...]]:
    scores = draw_scores(seed, GROUP)
    for name in ("grpo", "grpo_vectorized"):
        for options in ({}, {"scale": False}, {"eps": 0.1}):
            call = functools.partial(outcome, name=name, **options)
            yield "group_relative", call, scores, options, (), ""
    for name in ("rloo", "rloo_vectorized"):
        yield "leave_one_out", functools.partial(outcome, name=name), scores, {}, (), ""
    name = "reinforce_plus_plus_baseline"
    yield name, functools.partial(outcome, name=name, whole=True), scores, {}, (), ""
    call = functools.partial(outcome, name="grpo")
    small = {**scores, "rewards": np.float32(1e-3) * scores["rewards"]}  # where eps is felt
    yield "group_relative", call, small, {}, (), ""
    yield "group_relative", call, draw_scores(seed, 1), {}, (), LONE
    call = functools.partial(outcome, name="gpg")
    yield "gpg", call, scores, {}, (), ""
    yield "gpg", call, draw_scores(seed, GROUP, binary=True), {}, (), NONZERO
    rng = np.random.default_rng(seed)
    several = rng.normal(size=(record.B // GROUP, GROUP, 2)).astype(np.float32)
    inputs = {"mask": scores["mask"], "rewards": several, "reward_weights": np.float32([1.0, 0.3])}
    yield "gdpo", gdpo, inputs, {}, (), ""
    for holes in (False, True):
        tokens = draw_token_rewards(seed, holes=holes)
        rewards = {"mask": tokens["mask"], "rewards": tokens["rewards"]}
        for options in ({}, {"discount": 0.9, "decay": 0.8}):
            for part, method in enumerate(("gae", "returns")):
                yield method, functools.partial(gae, part=part, **options), tokens, options, (), ""
        for options in ({}, {"discount": 0.9}):
            call = functools.partial(reinforce_plus_plus, **options)
            yield "reinforce_plus_plus", call, rewards, options, (), ""
        greedy = rng.normal(size=record.B).astype(np.float32)
        yield "remax", remax, {**rewards, "greedy_rewards": greedy}, {}, (), ""


def main() -> None:
    versions = record.versions(verl="0.9.1")
    for part, cases in {
        "policy": policy_cases,
        "other": other_cases,
        "advantages": advantage_cases,
    }.items():
        found: list[golden.Golden] = [
            record.golden(
                call,
                inputs,
                wrt=wrt,
                preset=PRESET,
                method=method,
                options=options,
                seed=seed,
                difference=difference,
            )
            for seed in SEEDS
            for method, call, inputs, options, wrt, difference in cases(seed)
        ]
        print(golden.save(f"{PRESET}-{part}", found, versions), len(found))


if __name__ == "__main__":
    main()
