"""Records three updates of verl 0.9.1: its PPO trainer, training worker and FSDP engine.

Theirs are the trainer's old and reference log-probabilities, KL penalty, advantages and update of
the actor; the worker's epochs and minibatches; the engine's batches without padding, losses over
the whole batch, clipping and AdamW. Stand-ins are the sampler, which returns the given answers,
ray, which calls at once, and FSDP, which one process does not need.

In an environment with `pip install torch==2.13.0 transformers==5.24.0 tensordict omegaconf peft
codetiming orjson datasets` and the wheel of verl 0.9.1 on the path (but not its package `tests`,
which would hide this one), from the root of the repository:
python -m tests.conformance.record_updates_verl_0_9
"""

import functools
import tempfile
import types
from typing import Any

import numpy as np
import omegaconf
import torch

from tests.conformance import record, stubs, torch_updates, updates

stubs.install(
    *("ray", "hydra", "cachetools", "aiohttp", "zmq", "torchdata", "wandb"),
    *("uvicorn", "fastapi", "starlette", "qwen_vl_utils", "pylatexenc", "mathruler", "pybind11"),
    *("msgspec", "transfer_queue", "vllm", "sglang", "liger_kernel", "torchvision", "nvtx"),
)
from verl.plugin import platform  # noqa: E402
from verl.plugin.platform import platform_cuda  # noqa: E402


class Cpu(platform_cuda.PlatformCUDA):
    """Its platform of CUDA devices, by another name."""

    @property
    def device_name(self) -> str:
        return "cpu"

    def current_device(self) -> str:
        return "cpu"


platform.set_platform(Cpu())  # before anything reads its name

from verl import DataProto  # noqa: E402
from verl.trainer.ppo import core_algos, ray_trainer  # noqa: E402
from verl.workers import engine_workers  # noqa: E402
from verl.workers.config import (  # noqa: E402
    ActorConfig,
    FSDPOptimizerConfig,
    PolicyLossConfig,
)
from verl.workers.engine.fsdp import transformer_impl  # noqa: E402
from verl.workers.utils import losses as verl_losses  # noqa: E402

PRESET = "verl-0.9"
NO_DECAY = "$^"  # its optimizer gets all parameters in one group
NONZERO = (
    "verl scales by samples / samples with a reward other than 0, the paper by samples / samples "
    "in groups with unequal rewards"
)
MODES = {
    "token_mean": "token-mean",
    "row_mean": "seq-mean-token-mean",
    "row_sum": "seq-mean-token-sum",
    "row_fixed": "seq-mean-token-sum-norm",
}
LOSSES = {
    "ppo_clip": "vanilla",
    "gspo_token": "gspo",
    "gmpo": "geo_mean",
    "reinforce": "gpg",
    **{name: name for name in ("sapo", "cispo", "dro", "clip_cov", "kl_cov")},
}
ESTIMATORS = {"group_relative": "grpo", "leave_one_out": "rloo"}
KL = {"kl_in_reward": 0.1}
GROUP = {"advantages": "group_relative"}
LOW = {"clip_low": 0.05, "clip_high": 0.1}
# (algorithm, options, micro-batches, difference)
CASES: list[tuple[str, dict[str, Any], int, str]] = [
    ("grpo", {"method": "ppo_clip", **GROUP}, 1, ""),  # verl's defaults
    ("grpo", {"method": "ppo_clip", **GROUP, **KL}, 2, ""),
    ("grpo", {"method": "ppo_clip", **GROUP, **LOW, "dual_clip": 1.1}, 1, ""),
    ("grpo", {"method": "ppo_clip", **GROUP, "reduction": "row_mean"}, 2, ""),
    ("grpo", {"method": "ppo_clip", **GROUP, "scale": "none", "reduction": "row_fixed"}, 1, ""),
    ("grpo", {"method": "ppo_clip", **GROUP, "reduction": "row_sum"}, 1, ""),
    ("grpo", {"method": "gspo_token", **GROUP, "reduction": "row_mean"}, 1, ""),
    ("grpo", {"method": "sapo", **GROUP}, 1, ""),
    ("grpo", {"method": "cispo", **GROUP, "clip_high": 4.0}, 1, ""),
    ("grpo", {"method": "gmpo", **GROUP}, 1, ""),
    ("grpo", {"method": "dro", **GROUP, "beta": 0.3}, 1, ""),
    ("grpo", {"method": "kl_cov", **GROUP, "fraction": 0.2, "penalty": 1.0}, 1, ""),
    # No covariance lies between the bounds: which tokens are drawn is left to chance otherwise.
    ("grpo", {"method": "clip_cov", **GROUP, "minimum": 1e6, "maximum": 1e7}, 1, ""),
    ("reinforce", {"method": "ppo_clip", "advantages": "leave_one_out", **KL}, 1, ""),
    ("reinforce", {"method": "ppo_clip", "advantages": "reinforce_plus_plus", **KL}, 1, ""),
    ("reinforce", {"method": "ppo_clip", "advantages": "reinforce_plus_plus_baseline"}, 2, ""),
    ("reinforce", {"method": "reinforce", "advantages": "leave_one_out"}, 1, ""),
    ("reinforce", {"method": "reinforce", "advantages": "gpg"}, 1, NONZERO),
]


def engine(seed: int) -> Any:
    """Its engine over one process, with `updates.weights(seed)`."""
    optim = updates.OPTIM
    made = transformer_impl.FSDPEngineWithLMHead.__new__(transformer_impl.FSDPEngineWithLMHead)
    made.module = torch_updates.model(seed)
    made.optimizer_config = FSDPOptimizerConfig(
        lr=optim["learning_rate"],
        betas=(optim["b1"], optim["b2"]),
        weight_decay=optim["weight_decay"],
        clip_grad=optim["clip_norm"],
        lr_scheduler_type="constant",
        lr_warmup_steps=0,
        lr_warmup_steps_ratio=0.0,
        total_training_steps=updates.UPDATES,
        override_optimizer_config={"eps": optim["eps"]},
    )
    attributes = {
        "rank": 0,
        "mode": None,
        "scaler": None,
        "ulysses_device_mesh": None,
        "ulysses_sequence_parallel_size": 1,
        "ulysses_parallel_group": None,
        "use_ulysses_sp": False,
        "pad_to_length": False,
        "_autocast_dtype": torch.float32,
        **{name: False for name in ("_qat_enabled", "_is_offload_param", "_is_lora")},
        "_is_offload_optimizer": False,
        "engine_config": types.SimpleNamespace(
            entropy_checkpointing=False, fsdp_size=1, forward_only=False
        ),
    }
    for name, value in attributes.items():
        setattr(made, name, value)
    made.optimizer = made._build_optimizer(made.module)
    made.lr_scheduler = made._build_lr_scheduler(made.optimizer)
    return made


def worker(seed: int, micro_batches: int) -> Any:
    """Its training worker over that engine."""
    rows = updates.PROMPTS * updates.SAMPLES // micro_batches
    made = engine_workers.TrainingWorker.__new__(engine_workers.TrainingWorker)
    made.engine = engine(seed)
    made.engine_config = types.SimpleNamespace(
        use_dynamic_bsz=False,
        max_token_len_per_gpu=None,
        infer_max_token_len_per_gpu=None,
        micro_batch_size_per_gpu=rows,
        infer_micro_batch_size_per_gpu=rows,
        use_fused_kernels=False,
        forward_only=False,
    )
    made.model_config = {"use_remove_padding": False}
    made.device_name, made.flops_counter = "cpu", None
    made.profiler = engine_workers.DistProfiler(rank=0, config=None)
    return made


class Workers:
    """The remote copies of a worker: this one."""

    def __init__(self, policy: Any, reference: Any) -> None:
        self.compute_log_prob = with_mfu(policy.infer_batch)
        self.compute_ref_log_prob = with_mfu(reference.infer_batch)
        self.update_actor = with_mfu(policy.train_mini_batch)


def with_mfu(call: Any) -> Any:
    """The trainer reads a share of peak FLOPs that only accelerators have."""

    def called(data: Any) -> Any:
        output = call(data)
        metrics = output["metrics"]
        getattr(metrics, "data", metrics).setdefault("mfu", 0.0)
        return output

    return called


def trainer(options: dict[str, Any], policy: Any, reference: Any) -> Any:
    """Its trainer with the parts of its configuration that are read."""
    weight = options.get("kl_in_reward", 0.0)
    config = {
        "actor_rollout_ref": {
            "rollout": {
                "multi_turn": {"enable": False},
                "temperature": 1.0,
                "n": updates.SAMPLES,
            },
            "actor": {
                "calculate_entropy": False,
                "calculate_sum_pi_squared": False,
                "entropy_coeff": 0.0,
                "ppo_mini_batch_size": updates.PROMPTS,
                "ppo_epochs": updates.UPDATES,
                "data_loader_seed": 42,
                "shuffle": True,
            },
        },
        "algorithm": {"gamma": 1.0, "lam": 1.0, "kl_penalty": "kl"},
    }
    made = ray_trainer.RayPPOTrainer.__new__(ray_trainer.RayPPOTrainer)
    made.config = omegaconf.OmegaConf.create(config)
    made.distillation_config, made.ref_in_actor = None, False
    made.actor_rollout_wg = made.ref_policy_wg = Workers(policy, reference)
    made.kl_ctrl_in_reward = core_algos.FixedKLController(weight)
    return made


def answers() -> Any:
    """The given answers, as its rollout returns them: prompts padded left, answers right."""
    given = updates.samples()
    rows = updates.PROMPTS * updates.SAMPLES
    prompts = torch.full((rows, updates.PROMPT), updates.PAD)
    responses = torch.full((rows, updates.ANSWER), updates.PAD)
    seen = torch.zeros(rows, updates.PROMPT, dtype=torch.int64)
    scores = torch.zeros(rows, updates.ANSWER)
    mask = torch.tensor(updates.mask())
    for row, answer in enumerate(given["answers"]):
        prompt = given["prompts"][row // updates.SAMPLES]
        prompts[row, updates.PROMPT - len(prompt) :] = torch.tensor(prompt)
        seen[row, updates.PROMPT - len(prompt) :] = 1
        responses[row, : len(answer)] = torch.tensor(answer)
        scores[row, len(answer) - 1] = float(given["rewards"].reshape(-1)[row])
    attention = torch.cat([seen, mask], dim=1)
    uid = np.repeat([f"prompt {i}" for i in range(updates.PROMPTS)], updates.SAMPLES).astype(object)
    return DataProto.from_dict(
        tensors={
            "prompts": prompts,
            "responses": responses,
            "input_ids": torch.cat([prompts, responses], dim=1),
            "attention_mask": attention,
            "position_ids": torch.clip(attention.cumsum(1) - 1, min=0),
            "response_mask": mask,
            "token_level_scores": scores,
        },
        non_tensors={"uid": uid},
        meta_info={"temperature": 1.0},
    )


def actor_config(options: dict[str, Any]) -> ActorConfig:
    """Of the loss."""
    given = {k: v for k, v in options.items() if k not in ("advantages", "scale", "kl_in_reward")}
    loss = {"loss_mode": LOSSES[given.pop("method")]}
    names = {
        "minimum": "clip_cov_lb",
        "maximum": "clip_cov_ub",
        "penalty": "ppo_kl_coef",
        "beta": "dro_beta",
        "fraction": "kl_cov_ratio",
    }
    loss |= {names[name]: given.pop(name) for name in names if name in given}
    mode = MODES[given.pop("reduction", "token_mean")]
    low = given.pop("clip_low", 0.2)
    made = ActorConfig(
        strategy="fsdp",
        rollout_n=updates.SAMPLES,
        use_dynamic_bsz=True,
        clip_ratio_low=low,
        clip_ratio_high=given.pop("clip_high", low),
        clip_ratio_c=given.pop("dual_clip", 3.0),
        loss_agg_mode=mode,
        policy_loss=PolicyLossConfig(**loss),
    )
    assert not given, given
    return made


def recorded(
    algorithm: str, options: dict[str, Any], micro_batches: int, difference: str
) -> updates.Recorded:
    policy, reference = worker(0, micro_batches), worker(1, micro_batches)
    found: list[np.ndarray] = []
    told: list[tuple[float, float]] = []
    step, train = policy.engine.optimizer_step, policy.engine.train_batch

    def stepped() -> float:
        norm = step()
        found.append(torch_updates.params(policy.engine.module))
        return norm

    def trained(*args: Any, **more: Any) -> Any:
        output = train(*args, **more)
        told.append((sum(output["loss"]), float(output["metrics"]["grad_norm"])))
        return output

    policy.engine.optimizer_step, policy.engine.train_batch = stepped, trained
    policy.loss_fn = functools.partial(verl_losses.ppo_loss, config=actor_config(options))
    made, batch = trainer(options, policy, reference), answers()
    old = made._compute_old_log_prob(batch)[0]
    batch = batch.union(DataProto.from_dict({"old_log_probs": old.batch["old_log_probs"]}))
    if "kl_in_reward" in options:
        batch = batch.union(made._compute_ref_log_prob(batch))
        batch, _ = ray_trainer.apply_kl_penalty(batch, made.kl_ctrl_in_reward, "kl")
    else:
        batch.batch["token_level_rewards"] = batch.batch["token_level_scores"]
    name = options["advantages"]
    batch = ray_trainer.compute_advantage(
        batch,
        adv_estimator=ESTIMATORS.get(name, name),
        norm_adv_by_std_in_grpo=options.get("scale") != "none",
        config=core_algos.AlgoConfig(gamma=1.0),
    )
    made._update_actor(batch)
    losses, norms = np.array(told).T
    return updates.Recorded(
        preset=PRESET,
        algorithm=algorithm,
        options=options,
        params=np.stack(found),
        norms=norms,
        losses=losses,
        old_logprobs=batch.batch["old_log_probs"].numpy() * updates.mask(),
        no_decay=NO_DECAY,
        micro_batches=micro_batches,
        difference=difference,
    )


def main() -> None:
    versions = record.versions(verl="0.9.1", transformers="5.24.0")
    with tempfile.TemporaryDirectory() as folder:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/store", rank=0, world_size=1
        )
        made = [recorded(*case) for case in CASES]
        torch.distributed.destroy_process_group()
    for one in made:
        print(one.name, one.norms, one.losses)
    print(updates.save(PRESET, made, versions), len(made))


if __name__ == "__main__":
    main()
