"""Records three updates of OnlineDPOTrainer (TRL 1.16.0), or XPOTrainer and NashMDTrainer (1.13.0).

All of it is theirs: `trainer.train()` with transformers' loop, AdamW, decay mask and clipping. The
samplers alone are stand-ins, which return the given answers, and the rewards are known.

In an environment with `pip install torch==2.13.0 trl==1.16.0`, and again with 1.13.0, from the root
of the repository: python -m tests.conformance.record_updates_trl_online
"""

import tempfile
from typing import Any

import datasets
import numpy as np
import torch
import trl

from tests.conformance import online_updates, record, torch_updates, updates
from tests.conformance.record_updates_trl_1_16 import NO_DECAY, Watch, tokenizer, word

# (algorithm, options)
CASES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "1.16.0": [
        ("online_dpo", {"method": "online_dpo"}),
        ("online_dpo", {"method": "online_dpo", "beta": 0.7}),
        ("online_dpo", {"method": "online_ipo", "beta": 0.5}),
    ],
    "1.13.0": [
        ("xpo", {}),
        ("xpo", {"beta": 0.7, "optimism": 0.2}),
        ("xpo", {"beta": 0.5, "optimism": 0.05, "link": "ipo"}),
        ("nash_md", {}),
        ("nash_md", {"beta": 0.7}),
    ],
}
GIVEN = online_updates.pairs()
TEXTS = [" ".join(map(word, ids)) for ids in GIVEN["prompts"]]


def classes(algorithm: str) -> tuple[Any, Any]:
    """(trainer, configuration)."""
    if algorithm == "online_dpo":
        from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

        return OnlineDPOTrainer, OnlineDPOConfig
    if algorithm == "xpo":
        from trl.experimental.xpo import XPOConfig, XPOTrainer

        return XPOTrainer, XPOConfig
    from trl.experimental.nash_md import NashMDConfig, NashMDTrainer

    return NashMDTrainer, NashMDConfig


def own_options(algorithm: str, options: dict[str, Any]) -> dict[str, Any]:
    """The same by TRL's names."""
    own = {"beta": options["beta"]} if "beta" in options else {}
    if algorithm == "xpo" and "optimism" in options:
        own["alpha"] = options["optimism"]
    squared = options.get("method") == "online_ipo" or options.get("link") == "ipo"
    return {**own, "loss_type": "ipo"} if squared else own


def padded(rows: list[list[int]], *, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask) of rows filled up with padding."""
    width = max(map(len, rows))
    ids, mask = [], []
    for row in rows:
        fill, real = [updates.PAD] * (width - len(row)), [1] * len(row)
        ids.append(fill + row if left else row + fill)
        mask.append([0] * len(fill) + real if left else real + [0] * len(fill))
    return torch.tensor(ids), torch.tensor(mask)


def places(prompts: list[str]) -> list[int]:
    """The numbers of prompts, in the order in which a batch has them."""
    return [TEXTS.index(text) for text in prompts]


def stub(trainer: Any, algorithm: str) -> None:
    """Puts the given answers in the place of the samplers, and rewards where models had them."""
    if algorithm == "online_dpo":

        def generate(model: Any, prompts: list[str], images: Any = None) -> Any:
            order = places(prompts)
            # All first answers, then all second ones.
            before = [GIVEN["prompts"][p] for p in order] * 2
            answers = [GIVEN["answers"][p][side] for side in (0, 1) for p in order]
            return *padded(before, left=True), *padded(answers), None

        trainer._generate = generate
        return
    seen: dict[str, Any] = {}

    def completions(prompts: Any) -> tuple[torch.Tensor, torch.Tensor]:
        order = seen["order"] = places(prompts["raw"])
        sides = (padded([GIVEN["answers"][p][side] for p in order])[0] for side in (0, 1))
        first, second = (torch.cat((prompts["input_ids"], ids), dim=1) for ids in sides)
        return first, second

    def rewards(*_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        found = torch.tensor(GIVEN["rewards"])[seen["order"]]
        return found[:, 0].clone(), found[:, 1].clone()

    # XPO's takes (prompts, model), Nash-MD's (model, prompts).
    trainer._generate_completions = lambda *given: completions(
        next(x for x in given if isinstance(x, dict))
    )
    trainer._compute_rewards = rewards


def reward(prompts: list[str], completions: list[str], **more: Any) -> list[float]:
    """By the answer's ids."""
    known = {}
    for p, answers in enumerate(GIVEN["answers"]):
        for side, ids in enumerate(answers):
            known[tuple(ids)] = float(GIVEN["rewards"][p, side])
    found = []
    for ids in more["completion_ids"]:
        end = ids.index(updates.EOS) + 1 if updates.EOS in ids else len(ids)
        found.append(known[tuple(ids[:end])])
    return found


def recorded(algorithm: str, options: dict[str, Any]) -> updates.Recorded:
    kind, config = classes(algorithm)
    watch, optim = Watch(), updates.OPTIM
    policy, start = torch_updates.model(), torch_updates.old_logprobs(torch_updates.model())
    with tempfile.TemporaryDirectory() as folder:
        made = config(
            output_dir=folder,
            per_device_train_batch_size=updates.PROMPTS,
            max_steps=updates.UPDATES,
            max_new_tokens=updates.ANSWER,
            learning_rate=optim["learning_rate"],
            lr_scheduler_type="constant",
            adam_beta1=optim["b1"],
            adam_beta2=optim["b2"],
            adam_epsilon=optim["eps"],
            weight_decay=optim["weight_decay"],
            max_grad_norm=optim["clip_norm"],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            logging_steps=1,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            missing_eos_penalty=None,
            **own_options(algorithm, options),
        )
        trainer = kind(
            model=policy,
            ref_model=torch_updates.model(1),
            reward_funcs=reward,
            args=made,
            train_dataset=datasets.Dataset.from_dict({"prompt": TEXTS}),
            processing_class=tokenizer(),
            callbacks=[watch],
        )
        stub(trainer, algorithm)
        losses, plain = [], trainer.training_step

        def step(*arguments: Any) -> Any:
            losses.append(plain(*arguments))
            return losses[-1]

        trainer.training_step = step
        trainer.train()
    return updates.Recorded(
        preset="trl-" + trl.__version__.rpartition(".")[0],
        algorithm=algorithm,
        options=options,
        params=np.stack(watch.params),
        norms=np.array(watch.norms),
        losses=np.array([x.item() for x in losses]),
        old_logprobs=start,
        no_decay=NO_DECAY,
    )


def main() -> None:
    versions = record.versions(trl=trl.__version__, transformers="5.24.0")
    found = [recorded(*case) for case in CASES[trl.__version__]]
    for one in found:
        print(one.name, one.norms, one.losses)
    print(updates.save(found[0].preset, found, versions, updates.ONLINE), len(found))


if __name__ == "__main__":
    main()
