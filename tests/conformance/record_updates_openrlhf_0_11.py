"""Records three updates of OpenRLHF 0.11.2: its experience maker, replay buffer and actor trainer.

Theirs are `RemoteExperienceMaker.make_experience_batch`, `ActorPPOTrainer.ppo_train`, `Actor`,
`PolicyLoss` and the groups of parameters that are decayed. Stand-ins are the sampler, which returns
the given answers, ray, which calls at once, and DeepSpeed, whose engine scales each micro-batch's
loss by their number, clips and steps torch's AdamW.

In an environment with `pip install torch==2.13.0 transformers==5.24.0` and the wheel of openrlhf
0.11.2 on the path (but not its package `tests`, which would hide this one), from the root of the
repository: python -m tests.conformance.record_updates_openrlhf_0_11
"""

import sys
import types
from typing import Any
from unittest import mock

import numpy as np
import torch

from tests.conformance import record, stubs, torch_updates, updates

stubs.install(
    *("ray", "deepspeed", "vllm", "flash_attn", "ring_flash_attn", "torchdata", "optree", "peft"),
    *("wandb", "bitsandbytes", "pylatexenc", "latex2sympy2_extended", "math_verify", "aiohttp"),
)
sys.modules["flash_attn.ops"] = None  # type: ignore[assignment]  # log-probabilities are torch's

from openrlhf.models import Actor  # noqa: E402
from openrlhf.trainer.ppo_utils import experience_maker, kl_controller  # noqa: E402
from openrlhf.trainer.ppo_utils.experience import Experience  # noqa: E402
from openrlhf.trainer.ray import ppo_actor  # noqa: E402
from openrlhf.utils.deepspeed import deepspeed_utils  # noqa: E402

PRESET = "openrlhf-0.11"
NO_DECAY = "norm"  # its get_optimizer_grouped_parameters: all but the norms' scales
# (algorithm, options, micro-batches)
KL = {"kl_in_reward": 0.1}
CASES: list[tuple[str, dict[str, Any], int]] = [
    # OpenRLHF's defaults: a KL of 0.01 in the reward.
    ("reinforce", {"advantages": "reinforce_plus_plus", "kl_in_reward": 0.01}, 1),
    ("reinforce", {"advantages": "reinforce_plus_plus", **KL}, 2),
    ("reinforce", {"advantages": "reinforce_plus_plus_baseline", **KL}, 1),
    ("reinforce", {"advantages": "leave_one_out", **KL}, 1),
    ("reinforce", {"advantages": "leave_one_out", "reduction": "row_mean", **KL}, 2),
    ("reinforce", {"advantages": "flash_reinforce", **KL}, 1),
    ("grpo", {"advantages": "group_relative", **KL}, 1),
    ("grpo", {"advantages": "group_relative"}, 1),
    (
        "grpo",
        {"advantages": "group_relative", "clip_low": 0.05, "clip_high": 0.1, "dual_clip": 1.1},
        1,
    ),
    ("grpo", {"advantages": "group_relative", "scale": "none"}, 1),
    ("grpo", {"method": "gspo", "advantages": "group_relative"}, 1),
    (
        "grpo",
        {"method": "gspo", "advantages": "group_relative", "clip_low": 0.08, "clip_high": 0.1},
        1,
    ),
]
ESTIMATORS = {
    "reinforce_plus_plus": "reinforce",
    "reinforce_plus_plus_baseline": "reinforce_baseline",
    "leave_one_out": "rloo",
    "group_relative": "group_norm",
    "flash_reinforce": "flash_reinforce",
}


class Engine(torch.nn.Module):
    """What DeepSpeed's engine does with one process: losses over their number, a clip, AdamW."""

    def __init__(self, module: Any, accumulated: int) -> None:
        super().__init__()
        self.module, self.accumulated = module, accumulated
        self.norms: list[float] = []
        self.params: list[np.ndarray] = []
        self._seen = 0
        optim = updates.OPTIM
        groups = deepspeed_utils.get_optimizer_grouped_parameters(module, optim["weight_decay"])
        self._optimizer = torch.optim.AdamW(
            groups,
            lr=optim["learning_rate"],
            betas=(optim["b1"], optim["b2"]),
            eps=optim["eps"],
        )

    def forward(self, *args: Any, **more: Any) -> Any:
        return self.module(*args, **more)

    def backward(self, loss: torch.Tensor) -> None:
        (loss / self.accumulated).backward()

    def step(self) -> None:
        self._seen += 1
        if self._seen % self.accumulated:
            return
        parameters = list(self.module.parameters())
        norm = torch.nn.utils.clip_grad_norm_(parameters, updates.OPTIM["clip_norm"])
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.norms.append(float(norm))
        self.params.append(torch_updates.params(self.module))


class Strategy:
    """One process on the CPU."""

    ring_attn_group = None

    def __init__(self, args: Any, accumulated: int) -> None:
        self.args, self.accumulated_gradient = args, accumulated

    def is_rank_0(self) -> bool:
        return False

    def all_reduce(self, data: Any, op: str = "mean") -> Any:
        return data

    def backward(self, loss: torch.Tensor, model: Any, optimizer: Any) -> None:
        model.model.backward(loss)

    def optimizer_step(self, optimizer: Any, model: Any, scheduler: Any, name: str) -> None:
        model.model.step()

    def get_grad_norm(self, model: Any) -> float:
        return model.model.norms[-1] if model.model.norms else 0.0


def arguments(options: dict[str, Any]) -> Any:
    """Its command line's defaults, with the case's own in their place."""
    given = dict(options)
    estimator = ESTIMATORS[given.pop("advantages")]
    if given.pop("scale", "") == "none":
        estimator = "dr_grpo"
    low = given.pop("clip_low", 0.2)
    space = types.SimpleNamespace
    actor = space(
        eps_clip_low_high=(low, given.pop("clip_high", low)),
        dual_clip=given.pop("dual_clip", None),
        loss_agg_mode={"token_mean": "token-mean", "row_mean": "seq-mean-token-mean"}[
            given.pop("reduction", "token_mean")
        ],
        policy_loss_type={"ppo_clip": "ppo", "gspo": "gspo"}[given.pop("method", "ppo_clip")],
        aux_loss_coef=0,
        entropy_coef=None,
    )
    advantage = space(
        estimator=estimator,
        gamma=1.0,
        lambd=1.0,
        no_std_norm=False,
        is_correction_level="off",
        is_correction_mode="mask",
        is_correction_gating="ratio",
        is_correction_threshold=[0.5, 5.0],
    )
    kl = space(
        init_coef=given.pop("kl_in_reward", 0.0),
        estimator="k1",
        use_loss=False,
        unbiased_gradient=False,
    )
    assert not given, given
    rows = updates.PROMPTS * updates.SAMPLES
    return space(
        actor=actor,
        algo=space(advantage=advantage, kl=kl),
        reward=space(
            clip_range=(-10, 10), overlong_buffer_len=None, stop_properly_penalty_coef=None
        ),
        rollout=space(n_samples_per_prompt=updates.SAMPLES, micro_batch_size=rows),
        train=space(
            max_epochs=updates.UPDATES,
            dynamic_batch_enable=False,
            colocate_all=False,
            colocate_actor_ref=False,
            colocate_critic_reward=False,
            async_enable=False,
        ),
        ds=space(packing_samples=False, tensor_parallel_size=1, ring_attn_size=1),
        vllm=space(sync_backend="gloo"),
    )


def answers() -> list[Any]:
    """The given answers, as its samples generator makes them: a row each."""
    given, found = updates.samples(), []
    rewards = given["rewards"].reshape(-1)
    for row, answer in enumerate(given["answers"]):
        prompt = given["prompts"][row // updates.SAMPLES]
        ids = torch.tensor([prompt + answer])
        mask = torch.zeros_like(ids)
        mask[:, len(prompt) :] = 1
        one = Experience(
            sequences=ids,
            attention_mask=torch.ones_like(ids),
            action_mask=mask[:, 1:],
            prompts=[""],
            labels=[""],
            images=[None],
            mm_train_inputs=[None],
            rewards=torch.tensor([float(rewards[row])]),
            response_length=torch.tensor([len(answer)]),
            truncated=torch.tensor([answer[-1] != updates.EOS]),
            total_length=torch.tensor([float(ids.shape[1])]),
            info={"reward": torch.tensor([float(rewards[row])])},
        )
        found.append(one)
    return found


class Group:
    """The remote copies of a model: this one."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def async_run_method_batch(self, method_name: str, **columns: Any) -> Any:
        found = []
        for values in zip(*columns.values(), strict=True):
            given = dict(zip(columns, values, strict=True))
            with torch.no_grad():
                found.append(self.model(**given))
        return [found]


def actor(model: Any) -> Any:
    made = Actor(model)
    made.packing_samples = False
    return made


def recorded(algorithm: str, options: dict[str, Any], micro_batches: int) -> updates.Recorded:
    torch.manual_seed(0)  # its replay buffer is read in a random order
    args = arguments(options)
    strategy = Strategy(args, micro_batches)
    engine = Engine(torch_updates.model(), micro_batches)
    policy = actor(engine)
    weight = args.algo.kl.init_coef
    controller = kl_controller.FixedKLController(weight)
    reference = Group(actor(torch_updates.model(1))) if weight else None
    maker = experience_maker.RemoteExperienceMaker(
        Group(policy),
        None,
        None,
        reference,
        controller,
        strategy,
        types.SimpleNamespace(pad_token_id=updates.PAD),
    )
    start = torch_updates.old_logprobs(engine.module)
    with mock.patch.object(torch.cuda, "current_device", return_value=0):
        rows = updates.PROMPTS * updates.SAMPLES
        with mock.patch.object(ppo_actor, "torch_dist_barrier_and_cuda_sync"):
            trainer = ppo_actor.ActorPPOTrainer(
                strategy,
                policy,
                None,
                None,
                types.SimpleNamespace(get_last_lr=lambda: [updates.OPTIM["learning_rate"]]),
                micro_train_batch_size=rows // micro_batches,
                buffer_cpu_offload=True,
                dataloader_pin_memory=False,
            )
    for experience in maker.make_experience_batch(answers()):
        trainer.replay_buffer.append(experience)
    told = []
    plain = engine.backward

    def backward(loss: torch.Tensor) -> None:
        told.append(loss.item() / micro_batches)
        plain(loss)

    engine.backward = backward  # type: ignore[method-assign]
    with mock.patch.object(torch.cuda, "current_device", return_value="cpu"):
        trainer.ppo_train(weight)
    method = {"method": "ppo_clip", **options}
    return updates.Recorded(
        preset=PRESET,
        algorithm=algorithm,
        options=method,
        params=np.stack(engine.params),
        norms=np.array(engine.norms),
        losses=np.array(told).reshape(updates.UPDATES, micro_batches).sum(1),
        old_logprobs=start,
        no_decay=NO_DECAY,
        micro_batches=micro_batches,
    )


def main() -> None:
    versions = record.versions(openrlhf="0.11.2", transformers="5.24.0")
    # Its experience maker waits for ray; here there is an answer at once.
    experience_maker.ray = types.SimpleNamespace(get=lambda x: x, put=lambda x: x)
    found = [recorded(*case) for case in CASES]
    for one in found:
        print(one.name, one.norms, one.losses)
    print(updates.save(PRESET, found, versions), len(found))


if __name__ == "__main__":
    main()
