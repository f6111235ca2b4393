"""Records three updates of GRPOLearner, DAPOLearner and DrGRPOLearner of google-tunix 0.1.7.

All of it is theirs: `learner.train()` with its RLCluster, its trainer and its Llama 3, over an
optax chain. The sampler alone is a stand-in, which returns the given answers, and the reward
function knows them.

In an environment with `pip install google-tunix==0.1.7 jax==0.10.2 flax==0.12.8 optax==0.2.8
safetensors`, from the root of the repository:
python -m tests.conformance.record_updates_tunix_0_1_7
"""

import importlib.metadata
import pathlib
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from safetensors import numpy as safetensors
from tunix.models.llama3 import model as llama
from tunix.models.llama3 import params as llama_params
from tunix.rl import common, rl_cluster
from tunix.rl.grpo import dapo_learner, drgrpo_learner, grpo_learner
from tunix.rl.rollout import base_rollout

from tests.conformance import updates

PRESET = "tunix-0.1.7"
VERSIONS = {"google-tunix": "0.1.7", "jax": "0.10.2", "flax": "0.12.8", "optax": "0.2.8"}
NO_DECAY = "$^"  # optax.adamw decays everything
K1 = (
    "its default KL term is k1 as a loss, whose expected gradient is zero: AlignJAX refuses it; "
    "compared here is k2, whose expected gradient is that of KL(pi; ref)"
)
MEANS = (
    "its gradient accumulation averages the token means of micro-batches, so that a token of a "
    "short one weighs more; AlignJAX takes the mean of the whole batch"
)
MODES = {
    "token_mean": "token-mean",
    "row_mean": "sequence-mean-token-mean",
    "row_sum": "seq-mean-token-sum",
    "row_fixed": "sequence-mean-token-scale",
}
ESTIMATORS = {"k2": "mse_kl", "k3": "low_var_kl"}
KL = {"kl_weight": 0.1, "estimator": "k3"}
# (options, micro-batches, difference)
CASES: list[tuple[dict[str, Any], int, str]] = [
    ({"method": "grpo", "estimator": "k2"}, 1, K1),  # Tunix's defaults
    ({"method": "grpo", "kl_weight": 0.0}, 1, ""),
    ({"method": "grpo", **KL}, 1, ""),
    ({"method": "grpo", **KL}, 2, ""),
    ({"method": "grpo", "kl_weight": 0.2, "estimator": "k2", "kl_cap": 0.05}, 1, ""),
    (
        {"method": "grpo", "kl_weight": 0.0, "clip_low": 0.05, "clip_high": 0.1, "dual_clip": 1.1},
        1,
        "",
    ),
    ({"method": "grpo", "advantages": "leave_one_out", "kl_weight": 0.0}, 1, ""),
    ({"method": "grpo", "reduction": "token_mean", **KL}, 1, ""),
    ({"method": "grpo", "reduction": "token_mean", **KL}, 2, MEANS),
    ({"method": "grpo", "reduction": "row_sum", **KL}, 1, ""),
    ({"method": "dr_grpo", "scale": "none", **KL}, 1, ""),
    ({"method": "dapo"}, 1, ""),
    ({"method": "gspo_token", "kl_weight": 0.0}, 1, ""),
    ({"method": "gspo_token", "clip_low": 3e-3, "clip_high": 4e-3, **KL}, 1, ""),
]
OPTIONS = {"clip_low": "epsilon", "kl_weight": "beta", "kl_cap": "kl_clamp_value"}
# Where our tensors of two axes, (out, in), stand in its model; the axes are the other way round.
PLACES = {
    "self_attn.q_proj": "attn.q_proj.w",
    "self_attn.k_proj": "attn.k_proj.w",
    "self_attn.v_proj": "attn.v_proj.w",
    "self_attn.o_proj": "attn.o_proj.w",
    "mlp.gate_proj": "mlp.gate_proj.kernel",
    "mlp.up_proj": "mlp.up_proj.kernel",
    "mlp.down_proj": "mlp.down_proj.kernel",
    "input_layernorm": "input_layernorm.w",
    "post_attention_layernorm": "post_attention_layernorm.w",
}


def mesh() -> jax.sharding.Mesh:
    return jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))


def model(seed: int) -> Any:
    """Its Llama with `updates.weights(seed)`, fp32, read by its own loader."""
    sizes: dict[str, Any] = updates.SHAPE
    config = llama.ModelConfig(
        num_layers=sizes["num_hidden_layers"],
        vocab_size=sizes["vocab_size"],
        embed_dim=sizes["hidden_size"],
        hidden_dim=sizes["intermediate_size"],
        num_heads=sizes["num_attention_heads"],
        head_dim=sizes["head_dim"],
        num_kv_heads=sizes["num_key_value_heads"],
        rope_theta=int(sizes["rope_theta"]),
        norm_eps=sizes["rms_norm_eps"],
    )
    with tempfile.TemporaryDirectory() as folder:
        safetensors.save_file(updates.weights(seed), pathlib.Path(folder) / "model.safetensors")
        return llama_params.create_model_from_safe_tensors(
            folder, config, mesh(), dtype=jnp.float32
        )


def params(made: Any) -> np.ndarray:
    """[n], its parameters now, by the names and axes of transformers."""
    found = {}
    for name, shape in updates.tensors().items():
        layer = name.removeprefix("model.layers.0.").removesuffix(".weight")
        place = {
            "model.embed_tokens": "embedder.input_embedding",
            "model.norm": "final_norm.w",
            "lm_head": "lm_head.w",
        }.get(layer) or f"layers.0.{PLACES[layer]}"
        at: Any = made
        for part in place.split("."):
            at = at[int(part)] if part.isdigit() else getattr(at, part)
        value = np.array(at[...])
        if len(shape) == 2 and layer != "model.embed_tokens":
            value = value.reshape(shape[1], shape[0]).T
        found[name] = value
    return updates.flat(found)


class Words:
    """A tokenizer with a word for each id."""

    def encode(self, text: str, **_: Any) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: Any, **_: Any) -> str:
        return " ".join(str(int(i)) for i in ids)

    def bos_id(self) -> int:
        return updates.PAD

    def eos_id(self) -> int:
        return updates.EOS

    def pad_id(self) -> int:
        return updates.PAD


class Given(base_rollout.BaseRollout):
    """A sampler that returns the given answers; log-probabilities are those of the model."""

    def __init__(self, rollout_actor: Any, tokenizer: Any, **_: Any) -> None:
        self._model, self._tokenizer = rollout_actor, tokenizer

    def generate(self, prompts: Any, rollout_config: Any, **_: Any) -> Any:
        given, rows = updates.samples(), []
        wanted = [ids for ids in given["prompts"] for _ in range(updates.SAMPLES)]
        ids = [self._tokenizer.encode(str(text)) for text in prompts]
        padded = np.full((len(ids), updates.PROMPT), updates.PAD, np.int32)
        for row, prompt in enumerate(ids):
            rows.append(wanted.index(prompt) + row % updates.SAMPLES)
            padded[row, updates.PROMPT - len(prompt) :] = prompt
        answers = [given["answers"][row] for row in rows]
        return base_rollout.RolloutOutput(
            text=[self._tokenizer.decode(answer) for answer in answers],
            logits=[],
            tokens=[np.array(answer, np.int32) for answer in answers],
            left_padded_prompt_tokens=padded,
            logprobs=None,
        )

    def get_per_token_logps(self, prompt_tokens: Any, completion_tokens: Any) -> Any:
        graphdef, state = nnx.split(self._model)
        return common.compute_per_token_logps(
            graphdef,
            state,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            pad_id=self.pad_id(),
            eos_id=self.eos_id(),
        )

    def update_params(self, params: Any, filter_types: Any = None) -> None:
        """The trainer's model is this one."""

    def pad_id(self) -> int:
        return updates.PAD

    def eos_id(self) -> int:
        return updates.EOS

    def model(self) -> Any:
        return self._model


def cluster(micro_batches: int) -> Any:
    optim = updates.OPTIM
    optimizer = optax.chain(
        optax.clip_by_global_norm(optim["clip_norm"]),
        optax.adamw(
            optim["learning_rate"],
            b1=optim["b1"],
            b2=optim["b2"],
            eps=optim["eps"],
            weight_decay=optim["weight_decay"],
        ),
    )
    roles = rl_cluster.Role.ACTOR, rl_cluster.Role.REFERENCE, rl_cluster.Role.ROLLOUT
    config = rl_cluster.ClusterConfig(
        role_to_mesh=dict.fromkeys(roles, mesh()),
        rollout_engine=Given,
        training_config=rl_cluster.RLTrainingConfig(
            actor_optimizer=optimizer,
            eval_every_n_steps=100,
            max_steps=updates.UPDATES,
            mini_batch_size=updates.PROMPTS,
            train_micro_batch_size=updates.PROMPTS // micro_batches,
        ),
        rollout_config=base_rollout.RolloutConfig(
            max_tokens_to_generate=updates.ANSWER,
            max_prompt_length=updates.PROMPT,
            temperature=1.0,
        ),
    )
    return rl_cluster.RLCluster(
        actor=model(0), reference=model(1), tokenizer=Words(), cluster_config=config
    )


def learner(made: Any, options: dict[str, Any], is_k1: bool) -> Any:
    """Its learner of a method; is_k1: with its default estimator of the KL."""
    rewards, given = updates.samples()["rewards"].reshape(-1).tolist(), dict(options)
    method = given.pop("method")

    def reward(prompts: Any, completions: Any, **_: Any) -> list[float]:
        texts = [Words().decode(answer) for answer in updates.samples()["answers"]]
        return [rewards[texts.index(text)] for text in completions]

    kinds = {
        "dapo": (dapo_learner.DAPOLearner, dapo_learner.DAPOConfig),
        "dr_grpo": (drgrpo_learner.DrGRPOLearner, drgrpo_learner.DrGRPOConfig),
    }
    kind, config = kinds.get(method, (grpo_learner.GRPOLearner, grpo_learner.GRPOConfig))
    more = {name: given.pop(name) for name in ("clip_high", "dual_clip") if name in given}
    own = {OPTIONS[name]: given.pop(name) for name in OPTIONS if name in given}
    estimator = given.pop("estimator", None)
    if estimator and not is_k1:
        own["kl_loss_mode"] = ESTIMATORS[estimator]
    if "reduction" in given:
        own["loss_agg_mode"] = MODES[given.pop("reduction")]
    if given.pop("advantages", "") == "leave_one_out":
        own["advantage_estimator"] = "rloo"
    if method == "gspo_token":
        own["loss_algo"] = "gspo-token"
    assert given.pop("scale", "none") == "none", options
    assert not given, given
    algorithm = config(num_generations=updates.SAMPLES, num_iterations=updates.UPDATES, **own)
    for name, value in more.items():  # its loss reads them, its configuration has no field
        setattr(algorithm, {"clip_high": "epsilon_high", "dual_clip": "epsilon_c"}[name], value)
    return kind(rl_cluster=made, algo_config=algorithm, reward_fns=reward)


def recorded(options: dict[str, Any], micro_batches: int, difference: str) -> updates.Recorded:
    made = cluster(micro_batches)
    trained = learner(made, options, difference == K1)
    trainer = made.actor_trainer
    found: list[np.ndarray] = []
    told: list[tuple[float, float]] = []
    olds: list[np.ndarray] = []
    plain, buffer = made.update_actor, trainer._buffer_metrics

    def update(examples: list[Any], *more: Any) -> None:
        mask = np.asarray(examples[0].completion_mask)
        olds.append(np.asarray(examples[0].old_per_token_logps) * mask)
        plain(examples, *more)
        found.append(params(trainer.model))

    def tell(*args: Any, loss: Any, **more: Any) -> Any:
        told.append((float(loss), float(more["additional_metrics"]["grad_norm"][0])))
        return buffer(*args, loss=loss, **more)

    made.update_actor, trainer._buffer_metrics = update, tell
    texts = [Words().decode(ids) for ids in updates.samples()["prompts"]]
    trained.train([{"prompts": np.array(texts)}])
    assert len(found) == updates.UPDATES * micro_batches, len(found)
    losses, norms = np.array(told).reshape(updates.UPDATES, micro_batches, 2).transpose(2, 0, 1)
    return updates.Recorded(
        preset=PRESET,
        algorithm="grpo",
        options=options,
        params=np.stack(found[micro_batches - 1 :: micro_batches]),
        norms=norms[:, 0] if micro_batches == 1 else np.full(updates.UPDATES, np.nan),
        losses=losses.mean(1),
        old_logprobs=np.concatenate(olds[:micro_batches]),
        no_decay=NO_DECAY,
        micro_batches=micro_batches,
        difference=difference,
    )


def main() -> None:
    found = {name: importlib.metadata.version(name) for name in VERSIONS}
    if found != VERSIONS:
        raise SystemExit(f"This recorder is for {VERSIONS}; installed are {found}.")
    made = [recorded(*case) for case in CASES]
    for one in made:
        print(one.name, one.norms, one.losses)
    print(updates.save(PRESET, made, found), len(made))


if __name__ == "__main__":
    main()
