"""Records three updates of GRPOTrainer, GMPOTrainer and RLOOTrainer of TRL 1.16.0.

All of it is theirs: `trainer.train()` with transformers' loop, AdamW, decay mask and clipping. The
sampler alone is a stand-in, which returns the given answers, and the reward function knows them.

In an environment with `pip install torch==2.13.0 trl==1.16.0`, from the root of the repository:
python -m tests.conformance.record_updates_trl_1_16
"""

import tempfile
from typing import Any

import datasets
import numpy as np
import tokenizers
import transformers
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.experimental.gmpo import GMPOConfig, GMPOTrainer

from tests.conformance import record, torch_updates, updates

PRESET = "trl-1.16"
NO_DECAY = "norm"  # transformers' get_decay_parameter_names: all but the norms' scales
KL = {"kl_weight": 0.1}
# (algorithm, options, micro-batches)
CASES: list[tuple[str, dict[str, Any], int]] = [
    ("grpo", {"method": "dapo"}, 1),  # TRL's defaults
    ("grpo", {"method": "dapo", **KL}, 2),
    ("grpo", {"method": "dapo", "scale": "batch", "clip_high": 0.28, **KL}, 1),
    ("grpo", {"method": "dapo", "entropy_weight": 0.05, "entropy_share": 0.6}, 1),
    ("grpo", {"method": "grpo", **KL}, 1),
    ("grpo", {"method": "grpo", "kl_corrected": False, **KL}, 2),
    ("grpo", {"method": "grpo", "clip_low": 0.05, "clip_high": 0.05, "dual_clip": 1.1}, 1),
    ("grpo", {"method": "grpo", "off_policy_threshold": 0.01}, 1),
    ("grpo", {"method": "bnpo", **KL}, 1),
    ("grpo", {"method": "dr_grpo", "scale": "none", **KL}, 1),
    ("grpo", {"method": "gspo", "clip_low": 3e-3, "clip_high": 4e-3, **KL}, 1),
    ("grpo", {"method": "luspo", "level": "sequence"}, 1),
    ("grpo", {"method": "cispo", **KL}, 1),
    ("grpo", {"method": "cispo", "maximum_ratio": 5.0}, 1),
    ("grpo", {"method": "sapo", **KL}, 1),
    ("grpo", {"method": "vespo"}, 1),
    ("grpo", {"method": "gmpo", **KL}, 1),
    ("reinforce", {"method": "rloo_clip", "advantages": "leave_one_out", "kl_in_reward": 0.05}, 1),
    (
        "reinforce",
        {
            "method": "rloo_clip",
            "advantages": "leave_one_out",
            "kl_in_reward": 0.5,
            "clip_low": 0.05,
            "clip_high": 0.1,
        },
        1,
    ),
]
# Our options by TRL's names.
NAMES = {
    "kl_weight": "beta",
    "kl_in_reward": "beta",
    "kl_corrected": "use_bias_correction_kl",
    "clip_low": "epsilon",
    "clip_high": "epsilon_high",
    "maximum_ratio": "epsilon_high",
    "dual_clip": "delta",
    "scale": "scale_rewards",
    "level": "importance_sampling_level",
    "entropy_weight": "entropy_coef",
    "entropy_share": "top_entropy_quantile",
    "off_policy_threshold": "off_policy_mask_threshold",
}
KINDS = {
    "gmpo": (GMPOTrainer, GMPOConfig),
    "rloo_clip": (RLOOTrainer, RLOOConfig),
}


def word(token: int) -> str:
    return f"<{token}>"


def tokenizer() -> Any:
    """A word for each id."""
    vocab: Any = updates.SHAPE["vocab_size"]
    words = {word(i): i for i in range(vocab)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token=word(2)))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token=word(updates.PAD),
        eos_token=word(updates.EOS),
        padding_side="left",
    )


class Watch(transformers.TrainerCallback):
    """Parameters after each update, and the norm of its gradient."""

    def __init__(self) -> None:
        self.params: list[np.ndarray] = []
        self.norms: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.params.append(torch_updates.params(more["model"]))

    def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if "grad_norm" in more["logs"]:
            self.norms.append(float(more["logs"]["grad_norm"]))


def arguments(
    kind: type, options: dict[str, Any], micro_batches: int, folder: str
) -> tuple[Any, dict[str, Any]]:
    """(its configuration, its fields that are the case's own)."""
    optim, given = updates.OPTIM, dict(options)
    method = given.pop("method")
    given.pop("advantages", None)
    own = {NAMES[name]: value for name, value in given.items()}
    if method not in KINDS:
        own["loss_type"] = {"gspo": "grpo"}.get(method, method)
    if method == "gspo":
        own["importance_sampling_level"] = "sequence"
    rows = updates.PROMPTS * updates.SAMPLES
    made = kind(
        output_dir=folder,
        per_device_train_batch_size=rows // micro_batches,
        gradient_accumulation_steps=micro_batches,
        num_generations=updates.SAMPLES,
        num_iterations=updates.UPDATES,
        max_steps=updates.UPDATES,
        max_completion_length=updates.ANSWER,
        learning_rate=optim["learning_rate"],
        lr_scheduler_type="constant",
        adam_beta1=optim["b1"],
        adam_beta2=optim["b2"],
        adam_epsilon=optim["eps"],
        weight_decay=optim["weight_decay"],
        max_grad_norm=optim["clip_norm"],
        shuffle_dataset=False,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        **own,
    )
    return made, own


def recorded(algorithm: str, options: dict[str, Any], micro_batches: int) -> updates.Recorded:
    kind, config = KINDS.get(options["method"], (GRPOTrainer, GRPOConfig))
    given, watch = updates.samples(), Watch()
    prompts = [" ".join(map(word, ids)) for ids in given["prompts"]]
    rewards = given["rewards"].reshape(-1).tolist()
    policy, start = torch_updates.model(), torch_updates.old_logprobs(torch_updates.model())

    def reward(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        return rewards

    with tempfile.TemporaryDirectory() as folder:
        torch_updates.model(1).save_pretrained(folder)  # the reference is read from there
        policy.config._name_or_path = folder
        policy.name_or_path = folder
        made, _ = arguments(config, options, micro_batches, folder)
        trainer = kind(
            model=policy,
            reward_funcs=reward,
            args=made,
            train_dataset=datasets.Dataset.from_dict({"prompt": prompts}),
            processing_class=tokenizer(),
            callbacks=[watch],
        )
        wanted = [ids for ids in given["prompts"] for _ in range(updates.SAMPLES)]

        def answer(prompt_ids: list[list[int]], *_: Any) -> Any:
            assert prompt_ids == wanted, prompt_ids
            answers = [list(ids) for ids in given["answers"]]
            return answers if kind is RLOOTrainer else (answers, None)

        trainer._generate_single_turn = answer
        losses, plain = [], trainer._compute_loss

        def loss(*arguments: Any) -> Any:
            losses.append(plain(*arguments))
            return losses[-1]

        trainer._compute_loss = loss
        trainer.train()
    each = np.array([x.item() for x in losses]).reshape(updates.UPDATES, micro_batches)
    whole = each.mean(1) if kind is RLOOTrainer else each.sum(1)
    return updates.Recorded(
        preset=PRESET,
        algorithm=algorithm,
        options=options,
        params=np.stack(watch.params),
        norms=np.array(watch.norms),
        losses=whole,
        old_logprobs=start,
        no_decay=NO_DECAY,
        micro_batches=micro_batches,
    )


def main() -> None:
    versions = record.versions(trl="1.16.0", transformers="5.24.0")
    found = [recorded(*case) for case in CASES]
    for one in found:
        print(one.name, one.norms, one.losses)
    print(updates.save(PRESET, found, versions), len(found))


if __name__ == "__main__":
    main()
