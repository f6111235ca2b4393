"""Records google-tunix 0.1.7: its DPO, ORPO, GRPO and PPO losses, advantages and distillation.

In an environment with `pip install jax==0.10.2 flax==0.12.8 optax==0.2.8` and the wheel of
google-tunix 0.1.7 on the path, from the root of the repository:
python -m tests.conformance.record_tunix_0_1_7
"""

import functools
import importlib.metadata
import types
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.conformance import golden, stubs

stubs.install(
    *("torch", "orbax", "qwix", "grain", "kagglehub", "tenacity", "tensorflow_datasets"),
    *("transformers", "sentencepiece", "metrax", "tqdm", "omegaconf", "huggingface_hub"),
    *("jaxtyping", "datasets", "wandb", "pathwaysutils", "fsspec", "clu", "safetensors", "PIL"),
)
stubs.without_init("tunix")
stubs.without_init("tunix.distillation")
from flax import nnx  # noqa: E402
from tunix.distillation.strategies import logit  # noqa: E402
from tunix.rl import algo_core, common  # noqa: E402
from tunix.sft.dpo import dpo_trainer  # noqa: E402

from tests.conformance import record  # noqa: E402

PRESET = "tunix-0.1.7"
VERSIONS = {"google-tunix": "0.1.7", "jax": "0.10.2", "flax": "0.12.8", "optax": "0.2.8"}
SEEDS = (0, 1)
GROUP = 3
MODES = {
    "token_mean": "token-mean",
    "row_mean": "sequence-mean-token-mean",
    "row_sum": "seq-mean-token-sum",
    "row_fixed": "sequence-mean-token-scale",
}
ESTIMATORS = {"k1": "kl", "k2": "mse_kl", "k3": "low_var_kl"}
K1 = (
    "its default KL term is k1 as a loss, whose expected gradient is zero: AlignJAX refuses it; "
    "compared here is k2, whose expected gradient is that of KL(pi; ref)"
)
SATURATED = (
    "log(1 - P) as log1p(-exp(.)) is -inf there once P rounds to 1 in fp32, and the gradient NaN; "
    "AlignJAX keeps both finite"
)
UNLIMITED = (
    "its PPO does not limit log-ratios, so that a single token can make the loss infinite; "
    "AlignJAX limits them to +-20 nats, as Tunix's own GRPO does"
)
PADDING = (
    "it averages over padded positions too, so that the weight of a token falls with the padding "
    "of its batch; AlignJAX averages over counted tokens"
)
Arrays = dict[str, jax.Array]


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


def without_reference(drawn: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: x for name, x in drawn.items() if "reference" not in name}


def draw_policy(seed: int, *, per_row: bool, far: bool = False) -> dict[str, np.ndarray]:
    """With `far`, some log-ratios lie beyond 20 nats."""
    rng = np.random.default_rng(seed)
    mask = record.ragged_mask(rng)
    logprobs = record.logprobs(rng, mask)
    old = record.near(rng, logprobs, mask)
    if far:
        places = tuple(np.argwhere(mask)[[0, 3, 7]].T)
        old[places] = np.float32([-40.0, -26.0, -0.01])
        logprobs[places] = np.float32([-1.0, -0.5, -30.0])
    return {
        "mask": mask,
        "logprobs": logprobs,
        "old_logprobs": old,
        "reference_logprobs": record.near(rng, logprobs, mask, 0.8),
        "advantages": rng.normal(size=record.B if per_row else mask.shape).astype(np.float32),
        "token_weights": rng.uniform(0, 2, mask.shape).astype(np.float32),
        "entropy": rng.uniform(0, 3, mask.shape).astype(np.float32),
    }


def draw_values(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = record.ragged_mask(rng)
    values = rng.normal(size=mask.shape).astype(np.float32)
    old = (values + 0.6 * rng.normal(size=mask.shape)).astype(np.float32)
    more = [rng.normal(size=mask.shape).astype(np.float32) for _ in range(2)]
    return {
        "mask": mask,
        "values": values,
        "old_values": old,
        "returns": more[0],
        "rewards": more[1],
    }


def draw_logits(seed: int, *, ragged: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = record.ragged_mask(rng, 3, 6)
    mask = mask if ragged else np.ones_like(mask)
    logits = [2 * rng.normal(size=(*mask.shape, 7)).astype(np.float32) for _ in range(2)]
    labels = rng.integers(0, 7, mask.shape)
    return {
        "mask": mask,
        "student_logits": logits[0],
        "teacher_logits": logits[1],
        "labels": labels.astype(np.int32),
    }


# --- its losses ---
class Told(nnx.Module):
    """A model that holds what it answers with."""

    def __init__(self, answer: jax.Array) -> None:
        self.answer = nnx.Param(answer)


def pair_loss(arrays: Arrays, *, algorithm: str, **options: float) -> jax.Array:
    def both(name: str) -> jax.Array:
        return jnp.concatenate([arrays[name.format(side)] for side in ("chosen", "rejected")])

    common.get_per_token_logps = lambda model, **_: model
    mask = both("{}_mask")
    reference = [None, None]
    if "reference_chosen_logprobs" in arrays:
        rows = both("reference_{}_logprobs")
        reference = dpo_trainer.compute_logps(rows, mask, None, None, mask.shape[1], mask)
    example = types.SimpleNamespace(
        input_ids=mask,
        positions=None,
        attention_mask=None,
        logits_to_keep=mask.shape[1],
        completion_mask=mask,
        images=None,
        ref_chosen_logps=reference[0],
        ref_rejected_logps=reference[1],
    )
    if "ratio_weight" in options:
        options["lambda_orpo"] = options.pop("ratio_weight")
    return dpo_trainer.dpo_loss_fn(both("{}_logprobs"), example, algorithm, **options)[0]


def policy_loss(arrays: Arrays, *, kind: str, **options: Any) -> jax.Array:
    """grpo_loss_fn or ppo_policy_loss_fn, by `kind`."""

    def answer(graphdef: Any, state: Any, **_: Any) -> Any:
        told = nnx.merge(graphdef, state).answer[...]
        return told, arrays.get("entropy", jnp.zeros_like(told))

    common.compute_per_token_logps = answer
    algo_core.compute_entropy_from_logits = lambda entropy: entropy
    config: dict[str, Any] = {"epsilon_high": options.pop("clip_high", 0.2)}
    low, config["epsilon_c"] = options.pop("clip_low", 0.2), options.pop("dual_clip", None)
    if kind == "ppo":
        config |= {"epsilon_low": low, "entropy_coef": options.pop("entropy_weight", None)}
    else:
        config |= {
            "epsilon": low,
            "beta": options.pop("kl_weight", 0.04),
            "loss_algo": options.pop("loss_algo", "grpo"),
            "loss_agg_mode": MODES[options.pop("reduction", "row_mean")],
            "temperature": 1.0,
            "kl_loss_mode": ESTIMATORS[options.pop("estimator", "k1")],
            "kl_clamp_value": options.pop("kl_cap", None),
        }
    assert not options, options
    example = types.SimpleNamespace(
        prompt_ids=None,
        completion_ids=arrays["mask"],
        completion_mask=arrays["mask"],
        advantages=arrays["advantages"],
        old_per_token_logps=arrays.get("old_logprobs"),
        ref_per_token_logps=arrays.get("reference_logprobs"),
        sampler_is_weights=arrays.get("token_weights"),
    )
    losses = {"grpo": algo_core.grpo_loss_fn, "ppo": algo_core.ppo_policy_loss_fn}
    model, config_object = Told(arrays["logprobs"]), types.SimpleNamespace(**config)
    return losses[kind](model, example, config_object, 0, 1)[0]


def value_loss(arrays: Arrays, *, clip: float = 0.2) -> jax.Array:
    common.compute_score = lambda *_, **__: jnp.pad(arrays["values"], ((0, 0), (0, 1)))
    example = types.SimpleNamespace(
        prompt_ids=None,
        completion_ids=arrays["mask"],
        completion_mask=arrays["mask"],
        old_values=arrays["old_values"],
        returns=arrays["returns"],
    )
    return algo_core.ppo_value_loss_fn(None, example, clip, 0, 1)[0]


def distillation(
    arrays: Arrays, *, temperature: float = 2.0, distill_weight: float = 0.5, top_k: int = 0
) -> jax.Array:
    forward = lambda **_: None  # noqa: E731
    made = logit.LogitStrategy(forward, forward, forward, temperature, distill_weight, top_k)
    one_hot = jax.nn.one_hot(arrays["labels"], arrays["student_logits"].shape[-1])
    labels = one_hot * arrays["mask"][..., None]
    return made.compute_loss(arrays["student_logits"], arrays["teacher_logits"], labels)[0]


def kl_penalty(arrays: Arrays, *, estimator: str, cap: float | None = None) -> jax.Array:
    given = arrays["logprobs"], arrays["reference_logprobs"], ESTIMATORS[estimator], cap
    return common.compute_kl_divergence(*given) * arrays["mask"]


def gae(arrays: Arrays, *, part: int, discount: float = 1.0, decay: float = 0.95) -> jax.Array:
    """Advantages (part 0) or returns (1); masked entries, which no loss reads, are zeroed."""
    given = arrays["rewards"], arrays["values"], arrays["mask"], discount, decay
    return algo_core.compute_gae_advantages(*given)[part] * arrays["mask"]


def in_groups(arrays: Arrays, *, estimator: Callable[..., Any]) -> jax.Array:
    rewards = np.asarray(arrays["rewards"], np.float64)
    return jnp.asarray(estimator(rewards.reshape(-1), GROUP)).reshape(rewards.shape)


# --- cases: (method, call, inputs, options, what is differentiated, difference) ---
def pair_cases(seed: int) -> Iterable[tuple[Any, ...]]:
    drawn, wrt = draw_pairs(seed), ("chosen_logprobs", "rejected_logprobs")
    for inputs in (drawn, without_reference(drawn)):
        for options in ({"beta": 0.3}, {"beta": 0.3, "label_smoothing": 0.1}):
            call = functools.partial(pair_loss, algorithm="dpo", **options)
            yield "dpo", call, inputs, options, wrt, ""
    alone = without_reference(drawn)
    for options in ({}, {"ratio_weight": 0.7}, {"ratio_weight": 0.7, "label_smoothing": 0.2}):
        call = functools.partial(pair_loss, algorithm="orpo", **options)
        yield "orpo", call, alone, options, wrt, ""
    certain = {**alone, "chosen_logprobs": np.float32(-1e-9) * alone["chosen_mask"]}
    call = functools.partial(pair_loss, algorithm="orpo")
    yield "orpo", call, {k: v.astype(np.float32) for k, v in certain.items()}, {}, wrt, SATURATED


POLICY: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("grpo", {"kl_weight": 0.0}, {}),
    ("grpo", {"kl_weight": 0.0, "dual_clip": 1.2, "clip_low": 0.1, "clip_high": 0.3}, {}),
    *[("grpo", {"kl_weight": 0.3, "estimator": k}, {}) for k in ("k2", "k3")],
    ("grpo", {"kl_weight": 0.3, "estimator": "k3", "kl_cap": 0.2}, {}),
    *[("grpo", {"kl_weight": 0.3, "estimator": "k3", "reduction": mode}, {}) for mode in MODES],
    ("dapo", {}, {"clip_high": 0.28, "reduction": "token_mean", "kl_weight": None}),
    ("dr_grpo", {"kl_weight": 0.0}, {"reduction": "row_fixed"}),
    ("gspo_token", {"kl_weight": 0.0}, {"loss_algo": "gspo-token"}),
    (
        "gspo_token",
        {"kl_weight": 0.1, "estimator": "k3", "clip_low": 0.01, "clip_high": 0.02},
        {"loss_algo": "gspo-token"},
    ),
]


def policy_cases(seed: int) -> Iterable[tuple[Any, ...]]:
    for method, options, its in POLICY:
        call = functools.partial(policy_loss, kind="grpo", **{**its, **options})
        sequence = method == "gspo_token"
        for per_row in (True, False):
            drawn = draw_policy(seed, per_row=per_row, far=seed == 1 and not sequence)
            yield method, call, drawn, options, ("logprobs",), ""
        plain = {k: v for k, v in drawn.items() if k not in ("token_weights", "old_logprobs")}
        yield method, call, plain, options, ("logprobs",), ""
    for method, its in {
        "grpo": {},
        "dr_grpo": {"reduction": "row_fixed"},
        "gspo_token": {"loss_algo": "gspo-token"},
    }.items():
        call = functools.partial(policy_loss, kind="grpo", **its)
        drawn = draw_policy(seed, per_row=True)
        yield method, call, drawn, {"estimator": "k2"}, ("logprobs",), K1


def other_cases(seed: int) -> Iterable[tuple[Any, ...]]:
    inputs = draw_policy(seed, per_row=False)
    for options in ({}, {"dual_clip": 1.2, "clip_high": 0.3}, {"entropy_weight": 0.1}):
        call = functools.partial(policy_loss, kind="ppo", **options)
        yield "ppo_clip", call, inputs, options, ("logprobs",), ""
    far = draw_policy(seed, per_row=False, far=True)
    far["advantages"] = -np.abs(far["advantages"])
    call = functools.partial(policy_loss, kind="ppo")
    yield "ppo_clip", call, far, {}, ("logprobs",), UNLIMITED
    for options in ({}, {"clip": 0.5}):
        call = functools.partial(value_loss, **options)
        yield "value_clip", call, draw_values(seed), options, ("values",), ""
    for k in ESTIMATORS:
        for options in ({"estimator": k}, {"estimator": k, "cap": 0.3}):
            call = functools.partial(kl_penalty, **options)
            yield "kl_penalty", call, inputs, options, (), ""
    for options in ({}, {"temperature": 1.0, "distill_weight": 0.9}, {"top_k": 3}):
        call, drawn = functools.partial(distillation, **options), draw_logits(seed, ragged=False)
        yield "forward_kl", call, drawn, options, ("student_logits",), ""
    yield (
        "forward_kl",
        distillation,
        draw_logits(seed, ragged=True),
        {},
        ("student_logits",),
        PADDING,
    )
    for options in ({}, {"discount": 0.9, "decay": 0.8}):
        for part, method in enumerate(("gae", "returns")):
            call = functools.partial(gae, part=part, **options)
            yield method, call, draw_values(seed), options, (), ""
    rng = np.random.default_rng(seed)
    for size in (1.0, 1e-3):  # where eps is felt
        scores = {"rewards": (size * rng.normal(size=(2, GROUP))).astype(np.float32)}
        for method, estimator, options in [
            ("group_relative", algo_core.compute_advantages, {}),
            ("group_relative", algo_core.compute_drgrpo_advantages, {"scale": False}),
            ("leave_one_out", algo_core.compute_rloo_advantages, {}),
        ]:
            call = functools.partial(in_groups, estimator=estimator)
            yield method, call, scores, options, (), ""


def recorded(
    call: Callable[[Arrays], jax.Array],
    inputs: dict[str, np.ndarray],
    wrt: tuple[str, ...],
    *,
    wide: bool,
    **case: Any,
) -> golden.Golden:
    """The value and the gradients, from inputs in float64 if `wide`."""

    def widened(x: np.ndarray) -> np.ndarray:
        return x.astype(np.float64) if wide and x.dtype == np.float32 else x

    given = {k: jnp.asarray(widened(v)) for k, v in inputs.items()}
    differentiated = {k: given.pop(k) for k in wrt}
    value = call({**given, **differentiated})
    gradients: dict[str, Any] = {}
    if wrt:
        gradients = jax.grad(lambda d: jnp.sum(call({**given, **d})))(differentiated)
    return golden.Golden(
        inputs=inputs,
        value=np.asarray(value),
        gradients={k: np.asarray(g) for k, g in gradients.items()},
        preset=PRESET,
        **case,
    )


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    found = {name: importlib.metadata.version(name) for name in VERSIONS}
    if found != VERSIONS:
        raise SystemExit(f"This recorder is for {VERSIONS}; installed are {found}.")
    for part, cases in {"pairs": pair_cases, "policy": policy_cases, "other": other_cases}.items():
        goldens = [
            recorded(
                call,
                inputs,
                wrt,
                wide=difference != SATURATED,  # fp32 is where it is wrong
                method=method,
                options=options,
                seed=seed,
                difference=difference,
            )
            for seed in SEEDS
            for method, call, inputs, options, wrt, difference in cases(seed)
        ]
        print(golden.save(f"{PRESET}-{part}", goldens, found), len(goldens))


if __name__ == "__main__":
    main()
