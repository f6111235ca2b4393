"""Records PPOTrainer of TRL 1.12.0: its own `train`, up to the first backward pass.

Generation, models and reward model are stand-ins that answer with given log-probabilities, values
and scores; the numbers are the loop's local variables at the moment of the backward pass.

In an environment with `pip install torch==2.13.0 trl==1.12.0`, from the root of the repository:
python -m tests.conformance.record_trl_1_12_ppo
"""

import contextlib
import types
from typing import Any
from unittest import mock

import numpy as np
import torch
from trl.experimental.ppo import ppo_trainer

from tests.conformance import golden, record

SEEDS = (0, 1, 2)
B, T = 6, 7
PAD = 0
OPTIONS: list[dict[str, dict[str, Any]]] = [
    {},
    {
        "rewards": {"kl_weight": 0.3, "estimator": "k3"},
        "gae": {"discount": 0.9, "decay": 0.7},
        "ppo_clip": {"clip_low": 0.1, "clip_high": 0.1},
        "value_clip": {"clip": 0.5, "weight": 0.5},
    },
    {"gae": {"whiten_rewards": True}},
]


REWARDS = "old_logprobs reference_logprobs scores mask"


class Stop(Exception):
    """Raised in place of the backward pass."""


def draw(seed: int) -> dict[str, np.ndarray]:
    """Log-ratios grow with the seed. Some answers end at the last column."""
    rng = np.random.default_rng(seed)
    lengths = np.r_[T, T - 1, rng.integers(1, T + 1, B - 2)]
    mask = (np.arange(T)[None] < lengths[:, None]).astype(np.int64)
    logprobs, scale = record.logprobs(rng, mask), (0.2, 1.0, 3.0)[seed]
    return {
        "mask": mask,
        "logprobs": logprobs,
        "old_logprobs": record.near(rng, logprobs, mask, scale),
        "reference_logprobs": record.near(rng, logprobs, mask, scale),
        "values": rng.normal(size=(B, T)).astype(np.float32),
        "old_values": rng.normal(size=(B, T)).astype(np.float32),
        "scores": rng.normal(size=B).astype(np.float32),
    }


def trainer(options: dict[str, dict[str, Any]]) -> Any:
    """A PPOTrainer about to make one update on one micro-batch."""
    reward, gae = options.get("rewards", {}), options.get("gae", {})
    value = options.get("value_clip", {})
    made = ppo_trainer.PPOTrainer.__new__(ppo_trainer.PPOTrainer)
    names = "batch_size local_batch_size local_mini_batch_size per_device_train_batch_size"
    ones = "num_ppo_epochs num_mini_batches gradient_accumulation_steps num_total_batches"
    made.args = types.SimpleNamespace(
        **dict.fromkeys(names.split(), B),
        **dict.fromkeys(ones.split(), 1),
        **dict.fromkeys(("logging_steps", "eval_steps", "save_steps", "missing_eos_penalty")),
        local_rollout_forward_batch_size=B,
        total_episodes=B,
        response_length=T,
        temperature=1.0,
        ds3_gather_for_generation=False,
        kl_coef=reward.get("kl_weight", 0.05),
        kl_estimator=reward.get("estimator", "k1"),
        whiten_rewards=gae.get("whiten_rewards", False),
        gamma=gae.get("discount", 1.0),
        lam=gae.get("decay", 0.95),
        cliprange=options.get("ppo_clip", {}).get("clip_low", 0.2),
        cliprange_value=value.get("clip", 0.2),
        vf_coef=value.get("weight", 0.1),
    )

    def stop(loss: torch.Tensor) -> None:
        raise Stop

    made.accelerator = types.SimpleNamespace(
        device="cpu",
        print=lambda text: None,
        unwrap_model=lambda model: model,
        accumulate=lambda model: contextlib.nullcontext(),
        backward=stop,
    )
    made.processing_class = types.SimpleNamespace(pad_token_id=PAD, eos_token_id=1)
    made.dataloader = [{"input_ids": torch.ones(B, 1, dtype=torch.long)}]
    made.model = types.SimpleNamespace(train=lambda: None, policy=None, value_model="value")
    made.ref_model = made.reward_model = "other"
    made.optimizer = made.stop_token_id = made.control = None
    made.is_deepspeed_enabled, made.train_dataset_len = False, B
    made.state = types.SimpleNamespace()
    made.callback_handler = types.SimpleNamespace(on_train_begin=lambda *_: None)
    return made


def run(options: dict[str, dict[str, Any]], arrays: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The local variables of `train` at its first backward pass."""
    responses = arrays["mask"] * 5  # any token that is not the pad
    tokens = torch.cat([torch.ones(B, 1, dtype=torch.long), responses], 1)
    logits = torch.zeros(B, T + 1, 2)
    scored = iter([arrays[f"{name}logprobs"] for name in ("old_", "reference_", "")])

    def wide(values: torch.Tensor) -> torch.Tensor:
        """[B, T + 1, 1]: TRL drops the last."""
        return torch.nn.functional.pad(values, (0, 1))[..., None]

    def forward(model: Any, *_: Any) -> Any:
        output = types.SimpleNamespace(logits=logits.clone())
        return output if isinstance(model, str) else (output, wide(arrays["values"]))

    patched = {
        "unwrap_model_for_generation": lambda *_, **__: contextlib.nullcontext(
            types.SimpleNamespace(policy=None)
        ),
        "batch_generation": lambda *_: (tokens, logits[:, 1:]),
        "selective_log_softmax": lambda *_: next(scored),
        "forward": forward,
        "get_reward": lambda *_: (wide(arrays["old_values"]), arrays["scores"], None),
    }
    made = trainer(options)
    with (
        mock.patch.multiple(ppo_trainer, **patched),
        mock.patch.object(np.random, "permutation", np.arange),
    ):
        try:
            made.train()
        except Stop as stopped:
            trace = stopped.__traceback__
            while trace.tb_frame.f_code.co_name != "train":
                trace = trace.tb_next
            return dict(trace.tb_frame.f_locals)
    raise AssertionError("train() ended without a backward pass")


def recorded(seed: int, options: dict[str, dict[str, Any]]) -> list[golden.Golden]:
    """Rewards, advantages, returns and losses of one update."""
    inputs = draw(seed)
    arrays = {
        name: record.leaf(x, name in ("logprobs", "values"), wide=True)
        for name, x in inputs.items()
    }
    local = run(options, arrays)
    value_loss = local["args"].vf_coef * local["vf_loss"]
    # The loop overwrites its rewards if it whitens them: those before are an input then.
    rewards = local["non_score_reward"].clone()
    rewards[local["actual_start"], local["actual_end"]] += arrays["scores"]
    inputs["rewards"] = rewards.numpy().astype(np.float32)
    inputs["advantages"] = local["advantages"].numpy().astype(np.float32)
    inputs["returns"] = local["returns"].numpy().astype(np.float32)
    before = {**inputs, "values": inputs["old_values"]}  # to GAE they are those of sampling

    def made(
        method: str, given: dict[str, Any], names: str, value: torch.Tensor, wrt: str = ""
    ) -> golden.Golden:
        gradients = {}
        if wrt:
            (gradient,) = torch.autograd.grad(value, arrays[wrt])
            gradients[wrt] = gradient.numpy()
        return golden.Golden(
            preset="trl-1.12",
            method=method,
            options=options.get("gae" if method == "returns" else method, {}),
            inputs={name: given[name] for name in names.split()},
            value=value.detach().numpy(),
            gradients=gradients,
            seed=seed,
        )

    whitened = local["args"].whiten_rewards
    losses = "logprobs old_logprobs advantages mask", "values old_values returns mask"
    return [
        made("gae", before, "rewards values mask", local["advantages"]),
        made("returns", before, "rewards values mask", local["returns"]),
        made("ppo_clip", inputs, losses[0], local["pg_loss"], "logprobs"),
        made("value_clip", inputs, losses[1], value_loss, "values"),
        *([] if whitened else [made("rewards", inputs, REWARDS, local["rewards"])]),
    ]


def main() -> None:
    versions = record.versions(trl="1.12.0")
    found = [x for options in OPTIONS for seed in SEEDS for x in recorded(seed, options)]
    print(golden.save("trl-1.12-ppo", found, versions), len(found))


if __name__ == "__main__":
    main()
