"""All losses with arguments to call them on: what the tests that hold for every loss run over.

Case(name, args, kwargs): args map argument names, in order, to kinds; `draw` makes the arrays.
  "B", "BT", "BN": normal. "P": log-probs [B, T]; "near": others close to them. "S": log-probs [B].
  "mask": ragged, with gaps, one row empty.
differentiate: arguments with a gradient. surrogate: the gradient is not that of the value.
coupled: a row's result depends on the other rows.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import losses

B, T, V, N, K = 8, 6, 5, 4, 2
ROWS = "011100 111111 001100 000000 101101 111000 000001 111111"
MASK = np.array([[int(c) for c in row] for row in ROWS.split()])


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    args: dict[str, str]
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    differentiate: tuple[str, ...] = ()
    surrogate: bool = False
    coupled: bool = False

    def __str__(self) -> str:
        return "-".join([self.name, *[f"{k}={v}" for k, v in self.kwargs.items()]])

    @property
    def masked(self) -> bool:
        return "mask" in self.args

    def call(self, *args: Any) -> Any:
        """The loss as one array."""
        out = getattr(losses, self.name)(*args, **self.kwargs)
        return jnp.stack(out, -1) if isinstance(out, tuple) else out

    def draw(self, seed: int = 0) -> list[np.ndarray]:
        rng = np.random.default_rng([seed, *self.name.encode()])
        arrays: list[np.ndarray] = []
        for kind in self.args.values():
            arrays.append(_make(kind, rng) if kind != "near" else _near(arrays[0], rng))
        return arrays

    def value_and_grads(self, args: list, weights: Any) -> tuple[Any, list[Any]]:
        """(loss, gradients of sum(weights * loss) for the differentiable arguments)."""
        places = [list(self.args).index(name) for name in self.differentiate]

        def total(chosen: list) -> tuple[Any, Any]:
            full = list(args)
            for place, x in zip(places, chosen, strict=True):
                full[place] = x
            out = self.call(*full)
            return jnp.sum(out * weights), out

        (_, out), grads = jax.value_and_grad(total, has_aux=True)([args[p] for p in places])
        return out, grads


def _near(logprobs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Log-probabilities of another policy that is not far away."""
    return np.minimum(logprobs + 0.4 * rng.normal(size=logprobs.shape), -0.01)


def _make(kind: str, rng: np.random.Generator) -> np.ndarray:
    size = {"B": B, "T": T, "V": V, "N": N, "K": K}
    if kind == "mask":
        return MASK.copy()
    if kind == "mask_other":
        return MASK[::-1].copy()
    if kind == "mask_B":
        return np.array([1, 1, 0, 1, 1, 1, 1, 0])
    if kind == "mask_BN":
        return np.array([[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]] * 2)
    if kind == "P":
        return -rng.exponential(1.0, (B, T)) - 0.02
    if kind == "P_BNT":
        return -rng.exponential(1.0, (B, N, T)) - 0.02
    if kind == "unit_BNT":
        return rng.uniform(0.05, 0.95, (B, N, T))
    if kind == "mask_BNT":
        return np.arange(T) < rng.integers(0, T + 1, (B, N, 1))
    if kind == "lengths_BN":
        return rng.integers(1, 9, (B, N)).astype(float)
    if kind == "S":
        return -rng.exponential(1.0, B) - 0.02
    if kind == "dist":
        x = rng.normal(size=(B, T, V))
        return x - np.log(np.exp(x).sum(-1, keepdims=True))
    if kind == "unit":
        return rng.uniform(0.05, 0.95, B)
    if kind == "unit_BT":
        return rng.uniform(0.05, 0.95, (B, T))
    if kind == "ranks":
        return np.array([[0, 1, 2, 3], [2, 1, 1, 0], [9, 9, 1, 0], [1, 0, np.inf, np.inf]] * 2)[
            [*range(7), 0]
        ]
    if kind == "spans":  # S = N = 4 spans, of which a row may lack some
        return np.maximum(0, np.sort(rng.integers(-1, N + 1, (B, T)), axis=1))
    if kind == "unit_BN":
        return rng.uniform(0.05, 0.95, (B, N))
    if kind == "labels":
        return np.array([1, 0, 0, 1, 1, 0, 1, 0])
    if kind == "lengths":
        return rng.integers(1, 9, B).astype(float)
    if kind == "scalar":
        return np.array(0.3)
    return rng.normal(size=tuple(size[c] for c in kind))


PAIR = {"chosen_logratio": "B", "rejected_logratio": "B"}
BOTH = tuple(PAIR)
MEANS = {"chosen_mean_logprobs": "S", "rejected_mean_logprobs": "S"}
SUMS = {"chosen_logprobs": "S", "rejected_logprobs": "S"}
OLD = {"logprobs": "P", "old_logprobs": "near"}
ROW = {**OLD, "advantages": "B", "mask": "mask"}
TOKEN = {**OLD, "advantages": "BT", "mask": "mask"}
REF = {"logprobs": "P", "reference_logprobs": "near", "mask": "mask"}
GROUP = {"rewards": "BN", "mask": "mask_BN"}
LP = ("logprobs",)


def pair(name: str, args: dict | None = None, **kwargs: Any) -> Case:
    args = args or PAIR
    return Case(name, args, kwargs, tuple(args)[:2])


CASES = [
    pair("dpo", beta=0.7),
    pair("dpo", beta=0.7, label_smoothing=0.2),
    pair("robust_dpo", beta=0.7, flip_rate=0.3),
    pair("ipo", beta=0.4),
    pair("hinge", beta=0.7),
    pair("hinge", beta=0.7, target_margin=0.5),
    pair("exo_pair", beta=0.7, label_smoothing=0.1),
    pair("nca_pair", beta=0.7),
    pair("bco_pair", beta=0.7, shift=0.3),
    pair("sppo_hard", beta=0.7),
    pair("apo_zero", beta=0.7),
    pair("apo_down", beta=0.7),
    pair("discopop", beta=0.7, temperature=0.5),
    pair("dpop", beta=0.7, penalty=0.5),
    pair(
        "r_dpo",
        {**PAIR, "chosen_lengths": "lengths", "rejected_lengths": "lengths"},
        beta=0.7,
        alpha=0.1,
    ),
    Case("aot_unpaired", PAIR, {"beta": 0.7, "label_smoothing": 0.1}, BOTH, coupled=True),
    Case(
        "aot",
        {**SUMS, "reference_chosen_logprobs": "S", "reference_rejected_logprobs": "S"},
        {"beta": 0.7},
        tuple(SUMS),
        coupled=True,
    ),
    pair("xpo", {**PAIR, "reference_sample_logprobs": "S"}, beta=0.7, optimism=0.2),
    pair("xpo", {**PAIR, "reference_sample_logprobs": "S"}, beta=0.7, optimism=0.2, link="ipo"),
    Case(
        "kto",
        {"logratio": "B", "desirable": "labels", "reference_point": "scalar"},
        {"beta": 0.7, "undesirable_weight": 1.5},
        ("logratio",),
    ),
    Case(
        "apo_zero_unpaired", {"logratio": "B", "desirable": "labels"}, {"beta": 0.7}, ("logratio",)
    ),
    Case(
        "bco",
        {"logratio": "B", "desirable": "labels", "shift": "scalar"},
        {"beta": 0.7},
        ("logratio",),
    ),
    pair("odds_ratio", MEANS),
    pair("orpo", MEANS, ratio_weight=0.3),
    pair("simpo", MEANS, beta=2.0, target_margin=0.6),
    pair("alphapo", MEANS, beta=2.0, target_margin=0.6, alpha=0.25),
    pair("cpo", SUMS, beta=0.7, nll_weight=0.5),
    Case(
        "tpo",
        {**SUMS, "gold_logprobs": "S"},
        {"beta": 0.7, "target_margin": 0.2},
        (*SUMS, "gold_logprobs"),
    ),
    pair("bradley_terry", {"chosen_scores": "B", "rejected_scores": "B"}, margin=0.3),
    pair("bradley_terry", {"chosen_scores": "B", "rejected_scores": "B"}, label_smoothing=0.2),
    pair("center_penalty", {"chosen_scores": "B", "rejected_scores": "B"}),
    *[
        pair(name, {"chosen_scores": "B", "rejected_scores": "B", other: "unit"}, **kwargs)
        for name, other, kwargs in [
            ("davidson", "ties", {"tie_strength": 0.7}),
            ("rao_kupper", "ties", {"threshold": 0.4}),
            ("rater_noise", "accuracies", {}),
        ]
    ],
    Case("span_reward", {"logits": "BT", "spans": "spans", "labels": "unit_BN"}, {}, ("logits",)),
    *[
        Case(
            "group_robust",
            {"losses": "B", "groups": "labels", "weights": "K", **mask},
            {},
            ("losses",),
            coupled=True,
        )
        for mask in ({}, {"mask": "mask_B"})
    ],
    Case("group_weights", {"groups": "labels", "weights": "K", "mask": "mask_B"}, coupled=True),
    Case(
        "distributional",
        {
            "chosen_means": "B",
            "rejected_means": "B",
            "chosen_log_sds": "S",
            "rejected_log_sds": "S",
        },
        {},
        ("chosen_means", "rejected_means", "chosen_log_sds", "rejected_log_sds"),
    ),
    pair("distributional_categorical", {"chosen_logits": "BN", "rejected_logits": "BN"}),
    Case("plackett_luce", {"scores": "BN", "ranks": "ranks", "mask": "mask_BN"}, {}, ("scores",)),
    Case("all_pairs", {"scores": "BN", "ranks": "ranks", "mask": "mask_BN"}, {}, ("scores",)),
    Case("score_regression", {"scores": "B", "targets": "B"}, {}, ("scores",)),
    Case("outcome_reward", {"logits": "B", "labels": "unit"}, {}, ("logits",)),
    Case("multilabel", {"logits": "BN", "labels": "unit_BN", "mask": "mask_BN"}, {}, ("logits",)),
    Case("process_reward", {"logits": "BT", "labels": "unit_BT", "mask": "mask"}, {}, ("logits",)),
    Case("token_nll", {"token_logprobs": "P", "mask": "mask"}, {}, ("token_logprobs",)),
    Case(
        "smoothed_nll",
        {"token_logprobs": "P", "logsumexp": "BT", "mean_logits": "BT", "mask": "mask"},
        {"label_smoothing": 0.1},
        ("token_logprobs", "logsumexp", "mean_logits"),
    ),
    Case("z_loss", {"logsumexp": "BT", "mask": "mask"}, {"coefficient": 0.1}, ("logsumexp",)),
    Case("dft", {"token_logprobs": "P", "mask": "mask"}, {}, ("token_logprobs",), surrogate=True),
    Case("ppo_clip", TOKEN, {}, LP),
    Case("ppo_clip", ROW, {"clip_high": 0.28, "dual_clip": 2.0}, LP),
    Case("dapo", ROW, {}, LP),
    Case("bnpo", ROW, {}, LP),
    Case("grpo", ROW, {}, LP),
    Case("dr_grpo", ROW, {"length": 6.0}, LP),
    Case("reinforce", {"logprobs": "P", "advantages": "BT", "mask": "mask"}, {}, LP),
    Case(
        "value_clip",
        {"values": "BT", "old_values": "BT", "returns": "BT", "mask": "mask"},
        {"clip": 0.2},
        ("values",),
    ),
    Case("dppo", ROW, {"threshold": 0.05}, LP, surrogate=True),
    Case("dppo", TOKEN, {"threshold": 0.02, "measure": "kl"}, LP, surrogate=True),
    Case("gspo", ROW, {"clip_low": 0.3, "clip_high": 0.4}, LP),
    Case("gspo_token", ROW, {"clip_low": 0.3, "clip_high": 0.4}, LP, surrogate=True),
    Case("luspo", ROW, {"clip_low": 0.3, "clip_high": 0.4}, LP),
    Case("gmpo", ROW, {}, LP),
    Case("rloo", {"logprobs": "P", "advantages": "B", "mask": "mask"}, {}, LP),
    Case("rloo_clip", ROW, {}, LP),
    Case("gspo", ROW, {"clip_low": 0.3, "clip_high": 0.4, "dual_clip": 1.5}, LP),
    Case("vespo", ROW, {}, LP, surrogate=True),
    Case("vespo", {**ROW, "sampler_weights": "unit_BT"}, {}, LP, surrogate=True),
    Case("cispo", ROW, {"maximum_ratio": 1.1, "level": "sequence"}, LP, surrogate=True),
    Case("cispo", TOKEN, {"maximum_ratio": 1.5, "minimum_ratio": 0.5}, LP, surrogate=True),
    Case("sapo", ROW, {}, LP),
    Case("sapo", ROW, {"level": "sequence"}, LP),
    Case("kl_cov", ROW, {"fraction": 0.3}, LP, coupled=True),
    Case("entropy_bonus", {"entropy": "BT", "mask": "mask"}, {}, ("entropy",)),
    Case("k1", REF, {}, LP),
    Case("k2", REF, {}, LP),
    Case("k3", REF, {}, LP),
    Case("kl_penalty", REF),
    Case("kl_loss", REF, {}, LP),
    *[
        Case("kl_loss_weighted", {**OLD, "reference_logprobs": "P", "mask": "mask"}, kwargs, LP)
        for kwargs in ({}, {"level": "sequence"})
    ],
    Case(
        "nash_md",
        {"logprobs": "P", "reference_logprobs": "P", "preferences": "unit", "mask": "mask"},
        {"beta": 0.2},
        LP,
        surrogate=True,
    ),
    *[
        Case(
            name,
            {"student_logprobs": "dist", "teacher_logprobs": "dist", "mask": "mask"},
            kwargs,
            ("student_logprobs",),
        )
        for name, kwargs in [
            ("forward_kl", {}),
            ("reverse_kl", {}),
            ("generalised_jsd", {"beta": 0.3}),
        ]
    ],
    Case("score_sum", {"token_logprobs": "P", "mask": "mask"}, {}, ("token_logprobs",)),
    Case("score_mean", {"token_logprobs": "P", "mask": "mask"}, {}, ("token_logprobs",)),
    Case(
        "score_ld",
        {"token_logprobs": "P", "mask": "mask", "other_mask": "mask_other"},
        {"alpha": 0.3},
        ("token_logprobs",),
    ),
    # Without gradient: weights, advantages, diagnostics.
    Case("wpo_weight", {"token_logprobs": "P", "sum_p2": "unit_BT", "mask": "mask"}),
    Case("clip_fraction", TOKEN),
    Case("approx_kl", {**OLD, "mask": "mask"}),
    Case("importance_ratio", {**OLD, "mask": "mask"}, {}, LP),
    Case("sequence_ratio", {**OLD, "mask": "mask"}, {}, LP),
    Case("covariance", {"logprobs": "P", "advantages": "B", "mask": "mask"}, coupled=True),
    *[
        Case(
            "sampler_weight",
            {"logprobs": "P", "sampler_logprobs": "near", "mask": "mask"},
            {"level": level, "beyond": beyond, "maximum": 1.5},
        )
        for level in ("token", "sequence", "geometric")
        for beyond in ("truncate", "drop")
    ],
    *[
        Case(
            "sampler_weight",
            {"logprobs": "P", "sampler_logprobs": "near", "mask": "mask"},
            {"level": "token", "beyond": beyond, "maximum": None, "minimum": 0.8},
        )
        for beyond in ("truncate", "drop")
    ],
    Case(
        "off_policy_keep",
        {"logprobs": "P", "sampler_logprobs": "near", "advantages": "B", "mask": "mask"},
        {"threshold": 0.05},
    ),
    Case(
        "minillm_advantages",
        {"student_logprobs": "P", "teacher_logprobs": "P", "mask": "mask"},
    ),
    Case(
        "gae",
        {"rewards": "BT", "values": "BT", "mask": "mask"},
        {"discount": 0.9, "decay": 0.8},
    ),
    Case("discounted_returns", {"rewards": "BT", "mask": "mask"}, {"discount": 0.9}),
    Case("whiten", {"x": "BT", "mask": "mask"}, {"shift_mean": False}, coupled=True),
    Case("whiten", {"x": "BT", "mask": "mask"}, coupled=True),
    Case("whiten", {"x": "BT", "mask": "mask"}, {"unbiased": True}, coupled=True),
    Case("reinforce_plus_plus", {"rewards": "BT", "mask": "mask"}, coupled=True),
    Case("reinforce_plus_plus_baseline", GROUP, coupled=True),
    Case("group_relative", GROUP),
    Case("group_relative", GROUP, {"scale": False}),
    Case("group_relative", GROUP, {"spread": "batch"}, coupled=True),
    Case("leave_one_out", GROUP),
    Case("gpg", GROUP, coupled=True),
    Case("max_rl", GROUP),
    Case("pass_at_k", GROUP),
    Case("opo", {"rewards": "BN", "lengths": "lengths_BN", "mask": "mask_BN"}),
    Case(
        "otb",
        {"rewards": "BNT", "logprobs": "P_BNT", "sum_p2": "unit_BNT", "token_mask": "mask_BNT"},
    ),
    Case("gdpo", {"rewards": "BNK", "weights": "K", "mask": "mask_BN"}, coupled=True),
    Case("remax", {"rewards": "B", "greedy_rewards": "B"}),
]
