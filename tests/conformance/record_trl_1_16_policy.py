"""Records GRPOTrainer, GMPOTrainer and RLOOTrainer of TRL 1.16.0: their own code from samples to
the loss, fed with log-probabilities and rewards.

`_generate_and_score_completions` makes the advantages and the sampler's weights, `_compute_loss`
the loss; only the model, the generation and the reward functions are stand-ins. Masks with gaps
are TRL's tool masks.

In an environment with `pip install torch==2.13.0 trl==1.16.0`, from the root of the repository:
python -m tests.conformance.record_trl_1_16_policy
"""

import types
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from trl.experimental.gmpo import GMPOTrainer
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_trainer import RLOOTrainer

from tests.conformance import golden, record

SEEDS = (0, 1, 2)
B, T, N = 6, 7, 3
WIDE_CLIP = {"clip_low": 0.3, "clip_high": 0.4}
KL = {"kl_weight": 0.1}
SAMPLER = [
    {"sampler_level": level, "sampler_beyond": beyond, "sampler_maximum": 1.2, **low}
    for level in ("token", "sequence")
    for beyond in ("truncate", "drop")
    for low in ({}, {"sampler_minimum": 0.8})
]
NO_SAMPLER = {"sampler_level": None}
ONE_SAMPLER = {"sampler_level": "token", "sampler_beyond": "truncate", "sampler_maximum": 1.2}
CLIPPED = ("grpo", "gspo", "bnpo", "dr_grpo", "dapo", "luspo")
LENGTH = {"dr_grpo": {"length": 16.0}}
# Options of each loss: alone, then with what GRPOTrainer can add to it.
OWN: dict[str, list[dict[str, Any]]] = {
    **{name: [{}, WIDE_CLIP, {**WIDE_CLIP, "dual_clip": 1.5}] for name in CLIPPED},
    "cispo": [{}, {"maximum_ratio": 1.2}],
    "sapo": [{}, {"positive_temperature": 2.0, "negative_temperature": 0.5}],
    "vespo": [{}, {"positive": (1.0, 2.0), "negative": (2.5, 0.5)}],
}
ADDED: list[dict[str, Any]] = [
    {**NO_SAMPLER, **KL},
    {**KL, "kl_corrected": False, "entropy_weight": 0.05, **NO_SAMPLER},
    {"entropy_share": 0.4, "entropy_weight": 0.05, **KL, **ONE_SAMPLER},
]
LEVELS = [
    {"level": "sequence", **KL, **ONE_SAMPLER},
    {"level": "sequence", **WIDE_CLIP, **NO_SAMPLER},
]
MODES = {
    ("token", "truncate"): "token_truncate",
    ("token", "drop"): "token_mask",
    ("sequence", "truncate"): "sequence_truncate",
    ("sequence", "drop"): "sequence_mask",
}


EMPTY = (
    "a row without a counted token adds its -A to TRL's value (never to a gradient); ours adds 0"
)


def cases() -> list[tuple[str, dict[str, Any]]]:
    """(method, options) of the losses of GRPOTrainer."""
    found: list[tuple[str, dict[str, Any]]] = []
    for method, own in OWN.items():
        plain = LENGTH.get(method, {})
        found += [(method, {**plain, **NO_SAMPLER, **o}) for o in own]
        found += [(method, {**plain, **o}) for o in ADDED]
        if method in ("dapo", "luspo", "cispo", "sapo"):
            levels = LEVELS if method in CLIPPED else LEVELS[:1]
            found += [(method, {**plain, **o}) for o in levels]
    found += [(method, o) for method in ("grpo", "gspo") for o in SAMPLER]
    found += [("grpo", {**o, "off_policy_threshold": 0.05}) for o in (NO_SAMPLER, ONE_SAMPLER)]
    found += [("dapo", {})]  # the defaults, sampler's weights included
    found = [
        (m, {k: v for k, v in o.items() if (m, k) != ("vespo", "sampler_level")}) for m, o in found
    ]
    return found + [
        ("vespo", {**o, "sampler_maximum": 1.2})
        for o in ({"sampler_beyond": "truncate"}, {"sampler_minimum": 0.8})
    ]


def draw(seed: int, *, gaps: bool = True, empty: bool = True) -> dict[str, np.ndarray]:
    """Log-ratios grow with the seed: up to about 0.6, 3 and 9 nats. Seed 1 has an `empty` row."""
    rng = np.random.default_rng(seed)
    lengths = np.r_[T, rng.integers(1, T + 1, B - 1)]
    mask = (np.arange(T)[None] < lengths[:, None]).astype(np.int64)
    if gaps:
        mask[:, 1] *= rng.integers(0, 2, B)
    if empty and seed == 1:
        mask[2] = 0
    logprobs, scale = record.logprobs(rng, mask), (0.2, 1.0, 3.0)[seed]
    sampler = record.near(rng, logprobs, mask, 0.1)
    sampler[rng.random(mask.shape) < 0.1] = np.nan
    return {
        "mask": mask,
        "row_mask": np.ones(B, np.int64),
        "logprobs": logprobs,
        "old_logprobs": record.near(rng, logprobs, mask, scale),
        "reference_logprobs": record.near(rng, logprobs, mask, scale),
        "sampler_logprobs": sampler,
        "advantages": rng.normal(size=B).astype(np.float32),
        "entropy": rng.exponential(1.0, mask.shape).astype(np.float32),
    }


def accelerator() -> Any:
    return types.SimpleNamespace(
        device="cpu",
        num_processes=1,
        process_index=0,
        sync_gradients=True,
        gather=lambda x: x,
        reduce=lambda x, reduction: x,
        pad_across_processes=lambda x, dim, pad_index: x,
        unwrap_model=lambda model: model,
    )


def trainer(kind: type, arrays: dict[str, torch.Tensor], **attributes: Any) -> Any:
    """A trainer that has sampled answers with these masks; everything else is off."""
    made = kind.__new__(kind)
    mask = arrays["mask"]
    lengths = (T - mask.flip(1).argmax(1)).where(mask.any(1), torch.tensor(1))
    tokens = [[1] * int(n) for n in lengths]
    tools = [mask[i, :n].tolist() for i, n in enumerate(lengths)]
    sampled = arrays.get("sampler_logprobs")
    if sampled is not None:
        sampled = [sampled[i, :n].tolist() for i, n in enumerate(lengths)]
    prompts = [[1]] * len(mask)
    answers = prompts, tokens, tools, prompts, sampled, {}, None, None
    made._generate = lambda _: answers if kind is not RLOOTrainer else (prompts, tokens, prompts)
    defaults = {
        "accelerator": accelerator(),
        "model": types.SimpleNamespace(training=True, is_gradient_checkpointing=False),
        "_tokenizer": types.SimpleNamespace(pad_token_id=0),
        "_metrics": {"train": defaultdict(list)},
        "_logs": {"prompt": [], "completion": [], "rewards": defaultdict(list), "advantages": []},
        "_pending_extra_logs": {},
        "_pending_metrics": {},
        "reward_func_names": ["reward"],
        "reward_funcs": [None],
        "reward_weights": torch.ones(1, dtype=torch.float64),
        "num_generations": N,
        "num_iterations": 1,
        "current_gradient_accumulation_steps": 1,
        "ref_model": object(),
        **{name: None for name in ("environment_factories", "environments", "pad_to_multiple_of")},
        **{name: None for name in ("tools", "off_policy_mask_threshold", "reward_clip_range")},
        **{name: False for name in ("mask_truncated_completions", "aux_loss_enabled", "use_vllm")},
        **{name: False for name in ("use_adaptive_entropy", "normalize_advantages")},
        "vllm_importance_sampling_correction": True,
        "multi_objective_aggregation": "sum_then_normalize",
        "scale_rewards": "group",
        "top_entropy_quantile": 1.0,
        "beta": 0.0,
        "args": types.SimpleNamespace(
            per_device_train_batch_size=len(mask),
            steps_per_generation=1,
            gradient_accumulation_steps=3,  # not a multiple of 2: TRL then keeps old log-probs
            gradient_checkpointing_kwargs=None,
        ),
    }
    made._calculate_rewards = lambda *_: torch.zeros(len(mask), 1, dtype=torch.float64)
    for name, value in {**defaults, **attributes}.items():
        setattr(made, name, value)
    return made


def grpo(method: str, options: dict[str, Any], arrays: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss of GRPOTrainer (or GMPOTrainer)."""
    given = {"clip_low": 0.4 if method == "gmpo" else 0.2, "sampler_level": "sequence", **options}
    given = {"sampler_beyond": "drop", "clip_high": given["clip_low"], **given}
    if method == "vespo":
        given["sampler_level"] = "token"
    high = given.get("maximum_ratio", 0.2) if method == "cispo" else given["clip_high"]
    level = "sequence" if method == "gspo" else "token"
    sampled = "sampler_logprobs" in arrays
    weighted = sampled and given["sampler_level"] is not None
    made = trainer(
        GMPOTrainer if method == "gmpo" else GRPOTrainer,
        arrays,
        loss_type={"gspo": "grpo"}.get(method, method),
        importance_sampling_level=given.get("level", level),
        epsilon_low=given["clip_low"],
        epsilon_high=high,
        beta=given.get("kl_weight", 0.0),
        max_completion_length=given.get("length"),
        top_entropy_quantile=given.get("entropy_share", 1.0),
        _entropy_bonus_enabled="entropy_weight" in given,
        entropy_coef=given.get("entropy_weight", 0.0),
        off_policy_mask_threshold=given.get("off_policy_threshold"),
        use_vllm=weighted,
        vllm_importance_sampling_mode=weighted
        and MODES[given["sampler_level"], given["sampler_beyond"]],
        vllm_importance_sampling_clip_max=given.get("sampler_maximum", 3.0),
        vllm_importance_sampling_clip_min=given.get("sampler_minimum"),
    )
    positive, negative = given.get("positive", (2.0, 3.0)), given.get("negative", (3.0, 2.0))
    vars(made.args).update(
        steps_per_generation=2,
        delta=given.get("dual_clip"),
        use_bias_correction_kl=given.get("kl_corrected", True),
        sapo_temperature_pos=given.get("positive_temperature", 1.0),
        sapo_temperature_neg=given.get("negative_temperature", 1.05),
        vespo_k_pos=positive[0],
        vespo_lambda_pos=positive[1],
        vespo_k_neg=negative[0],
        vespo_lambda_neg=negative[1],
    )
    batch = scored(made, arrays)
    made.args.steps_per_generation = 1
    return made._compute_loss(made.model, {**batch, "advantages": arrays["advantages"]})


def scored(made: Any, arrays: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The batch that TRL makes of its samples; after it the model answers with `logprobs`."""

    def answer(model: Any, *_: Any, **__: Any) -> Any:
        name = "reference_logprobs" if model is made.ref_model else "old_logprobs"
        return arrays[name].detach(), None, None

    made._get_per_token_logps_and_entropies = answer
    batch = made._generate_and_score_completions([{"prompt": [1]}] * len(arrays["mask"]))
    entropy = arrays.get("entropy", torch.ones_like(arrays["logprobs"]))
    made._get_per_token_logps_and_entropies = lambda *_, **__: (arrays["logprobs"], entropy, None)
    return batch


def rloo(_: str, options: dict[str, Any], arrays: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss of RLOOTrainer."""
    low, high = options.get("clip_low", 0.2), options.get("clip_high", 0.2)
    made = trainer(RLOOTrainer, arrays, epsilon_low=low, epsilon_high=high)
    batch = scored(made, arrays)
    return made._compute_loss(made.model, {**batch, "advantages": arrays["advantages"]})


def draw_rewards(seed: int, funcs: int = 1) -> dict[str, np.ndarray]:
    """Rewards of 4 prompts: one with missing scores, one with a single score, one all equal."""
    rng = np.random.default_rng(seed)
    rewards = rng.normal(size=(4, N, funcs)).astype(np.float32)
    rewards[1, 0], rewards[2, 1:], rewards[3] = np.nan, np.nan, 0.5
    if funcs == 1:
        return {"rewards": rewards[..., 0]}
    rewards[0, 1, 0] = np.nan
    return {"rewards": rewards, "reward_weights": np.array([0.7, 1.6], np.float32)}


def advantages(
    kind: type, arrays: dict[str, torch.Tensor], batch: dict[str, torch.Tensor], **attributes: Any
) -> torch.Tensor:
    """Those of rewards [prompts, N] or [prompts, N, K]."""
    rewards = arrays["rewards"]
    flat = rewards.reshape(rewards.shape[0] * N, -1)
    names = [f"reward {i}" for i in range(flat.shape[1])]
    made = trainer(
        kind,
        batch,
        reward_func_names=names,
        reward_funcs=names,
        reward_weights=arrays.get("reward_weights", torch.ones(1, dtype=torch.float64)),
        **attributes,
    )
    made._calculate_rewards = lambda *_: flat
    return scored(made, batch)["advantages"].reshape(rewards.shape[:2])


def rloo_advantages(options: dict[str, Any], arrays: dict[str, torch.Tensor]) -> torch.Tensor:
    return advantages(
        RLOOTrainer,
        arrays,
        arrays,
        beta=options.get("kl_weight", 0.05),
        normalize_advantages=options.get("whiten", False),
        reward_clip_range=options.get("clip"),
    )


def sampled(seed: int) -> dict[str, np.ndarray]:
    """Four prompts' samples: what RLOO's KL penalty reads."""
    found = [draw(s, gaps=False, empty=False) for s in (seed, (seed + 1) % 3)]
    names = ("mask", "logprobs", "old_logprobs", "reference_logprobs")
    return {name: np.concatenate([x[name] for x in found]) for name in names}


def recorded(
    method: str,
    options: dict[str, Any],
    seed: int,
    call: Callable[..., torch.Tensor],
    drawn: dict[str, np.ndarray],
    difference: str = "",
) -> golden.Golden:
    """One loss with the arrays that it reads."""
    used = {
        "reference_logprobs": "kl_weight" in options,
        "entropy": "entropy_weight" in options or "entropy_share" in options,
        "sampler_logprobs": method in OWN and options.get("sampler_level", "any") is not None,
    }
    names = ["mask", "row_mask", "logprobs", "old_logprobs", "advantages"]
    names += [name for name, needed in used.items() if needed]
    return record.golden(
        lambda arrays: call(method, options, arrays),
        {name: drawn[name] for name in names},
        wrt=("logprobs", "entropy") if "entropy_weight" in options else ("logprobs",),
        preset="trl-1.16",
        method=method,
        options=options,
        seed=seed,
        difference=difference,
    )


def recorded_losses() -> list[golden.Golden]:
    found = [recorded(m, o, seed, grpo, draw(seed)) for m, o in cases() for seed in SEEDS]
    for options in ({}, WIDE_CLIP, {**KL, **WIDE_CLIP}):
        for seed in SEEDS:
            found.append(recorded("gmpo", options, seed, grpo, draw(seed, empty=False)))
    found.append(recorded("gmpo", {}, 1, grpo, draw(1), difference=EMPTY))
    for options in ({}, {"clip_low": 0.1, "clip_high": 0.3}):
        for seed in SEEDS[:2]:
            drawn = draw(seed, gaps=False, empty=False)
            found.append(recorded("rloo_clip", options, seed, rloo, drawn))
    return found


def recorded_advantages() -> list[golden.Golden]:
    def case(method: str, seed: int, **options: Any) -> dict[str, Any]:
        return {"preset": "trl-1.16", "method": method, "options": options, "seed": seed}

    found = []
    for seed in SEEDS:
        batch = {k: torch.tensor(v) for k, v in sampled(seed).items()}
        for scale in ("group", "batch", "none"):
            found.append(
                record.golden(
                    lambda x, s=scale, b=batch: advantages(GRPOTrainer, x, b, scale_rewards=s),
                    draw_rewards(seed),
                    wrt=(),
                    **case("group_relative", seed, scale=scale),
                )
            )
        found.append(
            record.golden(
                lambda x, b=batch: advantages(
                    GRPOTrainer, x, b, multi_objective_aggregation="normalize_then_sum"
                ),
                draw_rewards(seed, funcs=2),
                wrt=(),
                **case("gdpo", seed),
            )
        )
        for options in ({}, {"whiten": True}, {"clip": (-0.5, 0.5), "kl_weight": 0.2}):
            found.append(
                record.golden(
                    lambda x, o=options: rloo_advantages(o, x),
                    {**draw_rewards(seed), **sampled(seed)},
                    wrt=(),
                    **case("leave_one_out", seed, **options),
                )
            )
    return found


def main() -> None:
    versions = record.versions(trl="1.16.0")
    found = recorded_losses()
    grouped = ("grpo", "gspo", "bnpo")
    parts = {
        "policy": [x for x in found if x.method in grouped],
        "policy-other": [x for x in found if x.method not in grouped],
        "advantages": recorded_advantages(),
    }
    for part, goldens in parts.items():
        print(golden.save(f"trl-1.16-{part}", goldens, versions), len(goldens))


if __name__ == "__main__":
    main()
