"""Records CPO, ORPO, TPO and online DPO of TRL 1.16.0 on a model of two tokens.

In an environment with `pip install torch==2.13.0 trl==1.16.0`, from the root of the repository:
python -m tests.conformance.record_trl_1_16_reference_free
"""

import types
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from trl.experimental.cpo import cpo_config, cpo_trainer
from trl.experimental.online_dpo import online_dpo_trainer
from trl.experimental.orpo import orpo_trainer
from trl.experimental.tpo import tpo_trainer

from tests.conformance import golden, record, two_tokens

SEEDS = (0, 1)
PAIR = ("chosen", "rejected")
TRIPLE = (*PAIR, "gold")
CPO = {"cpo": "sigmoid", "cpo_hinge": "hinge", "cpo_ipo": "ipo", "simpo": "simpo"}
TPO = {"tpo": "sigmoid", "tpo_hinge": "hinge", "tpo_ipo": "ipo", "tpo_l": "tpo-l"}
ONLINE = {"online_dpo": "sigmoid", "online_ipo": "ipo"}
SMOOTH = {"label_smoothing": 0.1}
CASES: list[tuple[str, dict[str, Any]]] = [
    *[(method, {"beta": 0.3, **more}) for method in CPO for more in ({}, {"alpha": 0.25})],
    *[(method, {"beta": 0.3, "nll_weight": weight}) for method in CPO for weight in (0.0, 0.5)],
    *[(method, {"beta": 0.3, **SMOOTH}) for method in ("cpo", "simpo")],
    ("simpo", {"beta": 2.0, "target_margin": 1.2}),
    ("cpo", {"beta": 0.3, "alpha": -0.5}),
    *[("alphapo", {"beta": 2.0, "alpha": alpha}) for alpha in (0.0, 0.25, -0.5)],
    *[("orpo", {"ratio_weight": weight}) for weight in (0.1, 0.5)],
    *[(method, {"beta": 0.3, "nll_weight": w}) for method in TPO for w in (1.0, 0.0)],
    *[(method, {"beta": 0.3, **SMOOTH}) for method in ("tpo", "tpo_l")],
    ("tpo_l", {"beta": 0.3, "target_margin": 1.2}),
    *[(method, {"beta": 0.3}) for method in ONLINE],
]
CERTAIN = (
    "mean log-probabilities above -1e-6 count as -1e-6: TRL's gradient is NaN where the "
    "exponential of one rounds to 1"
)

UNDERFLOW = (
    "exponents are cut at 40: TRL's reward of an answer whose probability underflows (below -104 "
    "nats in fp32) is infinite and its loss NaN"
)
DIFFERENT: list[tuple[str, dict[str, Any], str]] = [
    ("orpo", {"ratio_weight": 0.1}, CERTAIN),
    ("cpo", {"beta": 0.3, "alpha": 0.25}, UNDERFLOW),
]


def draw(seed: int, sides: tuple[str, ...], difference: str = "") -> dict[str, np.ndarray]:
    """CERTAIN: the first chosen answer's probability is almost 1; UNDERFLOW: all are tiny."""
    rng = np.random.default_rng(seed)
    out: dict[str, np.ndarray] = {}
    slots = np.arange(record.T)[None]
    for side in sides:
        mask = record.ragged_mask(rng)
        logprobs = record.logprobs(rng, np.ones_like(mask))
        if difference == CERTAIN and side == "chosen":
            logprobs[0] = -1e-8
        if difference == UNDERFLOW:
            logprobs -= np.float32(120.0)
        last = record.T - 1 - mask[:, ::-1].argmax(axis=1)[:, None]
        out |= {
            f"{side}_mask": mask,
            # The first token of a text has no log-probability.
            f"{side}_sequence_mask": ((slots > 0) & (slots <= last)).astype(np.int64),
            f"{side}_logprobs": logprobs,
            f"reference_{side}_logprobs": record.near(rng, logprobs, np.ones_like(mask)),
        }
    return out


def together(arrays: dict[str, torch.Tensor], name: str, sides: tuple[str, ...]) -> torch.Tensor:
    return torch.cat([arrays[name.format(side)] for side in sides])


def model(
    arrays: dict[str, torch.Tensor], sides: tuple[str, ...], prefix: str = ""
) -> two_tokens.Model:
    logprobs = together(arrays, prefix + "{}_logprobs", sides)
    return two_tokens.Model(logprobs, torch.ones_like(logprobs))


def pair_batch(arrays: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    batch = {}
    for side in PAIR:
        seen = arrays[f"{side}_sequence_mask"].clone()
        seen[:, 0] = 1
        batch[f"{side}_input_ids"] = torch.full_like(seen, two_tokens.TOKEN)
        batch[f"{side}_attention_mask"] = seen
        batch[f"{side}_labels"] = torch.where(arrays[f"{side}_mask"] == 1, two_tokens.TOKEN, -100)
    return batch


def bare(kind: type, **attributes: Any) -> Any:
    """A trainer with the attributes that its loss reads, and nothing else."""
    made = kind.__new__(kind)
    made.accelerator = two_tokens.accelerator()
    made.aux_loss_enabled = made.is_encoder_decoder = False
    made.pad_token_id = made.padding_value = 0
    made._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
    made._total_train_tokens, made._tp_size = 0, 1
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def cpo(method: str, options: dict[str, Any], arrays: dict[str, torch.Tensor]) -> torch.Tensor:
    config = cpo_config.CPOConfig(
        output_dir="", use_cpu=True, bf16=False, loss_type=CPO.get(method, method)
    )
    made = bare(
        cpo_trainer.CPOTrainer,
        loss_type=config.loss_type,
        beta=options["beta"],
        label_smoothing=options.get("label_smoothing", config.label_smoothing),
        cpo_alpha=options.get("nll_weight", config.cpo_alpha),
        simpo_gamma=options.get("target_margin", config.simpo_gamma),
        alpha=options.get("alpha", config.alpha),
    )
    return made.get_batch_loss_metrics(model(arrays, PAIR), pair_batch(arrays))[0]


def orpo(options: dict[str, Any], arrays: dict[str, torch.Tensor]) -> torch.Tensor:
    made = bare(orpo_trainer.ORPOTrainer, beta=options["ratio_weight"])
    return made.get_batch_loss_metrics(model(arrays, PAIR), pair_batch(arrays))[0]


def tpo(method: str, options: dict[str, Any], arrays: dict[str, torch.Tensor]) -> torch.Tensor:
    weight = options.get("nll_weight", 1.0)
    sides = TRIPLE if weight else PAIR
    told = model(arrays, sides)
    made = bare(
        tpo_trainer.TPOTrainer,
        model=told,
        loss_type=TPO[method],
        beta=options["beta"],
        tpo_alpha=weight,
        tpo_l_gamma=options.get("target_margin", 0.5),
        label_smoothing=options.get("label_smoothing", 0.0),
    )
    mask = together(arrays, "{}_mask", sides)
    batch = {
        "input_ids": torch.full_like(mask, two_tokens.TOKEN),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
    }
    return made._compute_loss(told, batch, return_outputs=False)


def online(method: str, options: dict[str, Any], arrays: dict[str, torch.Tensor]) -> torch.Tensor:
    """Its whole step, with given samples and scores; every other pair is sampled the other way."""
    swap = torch.arange(record.B) % 2 == 1
    seen: list[torch.Tensor] = []
    sampled = {}
    for name in ("{}_mask", "{}_logprobs", "reference_{}_logprobs"):
        chosen, rejected = (arrays[name.format(side)] for side in PAIR)
        first = torch.where(swap[:, None], rejected, chosen)
        sampled[name] = torch.cat([first, torch.where(swap[:, None], chosen, rejected)])
    mask = sampled["{}_mask"]
    ids = torch.full_like(mask, two_tokens.TOKEN)
    known = torch.ones_like(mask)
    scores = torch.where(swap, 0.0, 1.0)
    made = bare(
        online_dpo_trainer.OnlineDPOTrainer,
        _beta=options["beta"],
        state=types.SimpleNamespace(epoch=0, global_step=1),
        max_length=record.T,
        eos_token_ids=[0],
        reward_funcs=[None],
        stats=defaultdict(list),
        ref_model=two_tokens.Model(sampled["reference_{}_logprobs"], known),
        processing_class=types.SimpleNamespace(batch_decode=lambda x, **_: [""] * len(x)),
        args=types.SimpleNamespace(
            use_vllm=False,
            missing_eos_penalty=None,
            loss_type=ONLINE[method],
            torch_empty_cache_steps=None,
            optim="adamw_torch",
            n_gpu=1,
            gradient_accumulation_steps=1,
        ),
        _generate=lambda *_: (ids[:, :1], known[:, :1], ids[:, 1:], mask[:, 1:], None),
        _calculate_rewards_from_functions=lambda **_: torch.cat([scores, 1.0 - scores]),
    )
    made.accelerator.backward = seen.append
    told = two_tokens.Model(sampled["{}_logprobs"], known)
    made.training_step(told, {"prompt": [""] * record.B})
    return seen[0]


def run(method: str, options: dict[str, Any], arrays: dict[str, torch.Tensor]) -> torch.Tensor:
    if method == "orpo":
        return orpo(options, arrays)
    if method in TPO:
        return tpo(method, options, arrays)
    if method in ONLINE:
        return online(method, options, arrays)
    return cpo(method, options, arrays)


def recorded(method: str, options: dict[str, Any], seed: int, difference: str = "") -> Any:
    sides = TRIPLE if method in TPO else PAIR
    return record.golden(
        lambda arrays: run(method, options, arrays),
        draw(seed, sides, difference),
        wrt=tuple(f"{side}_logprobs" for side in sides),
        wide=difference != UNDERFLOW,
        preset="trl-1.16",
        method=method,
        options=options,
        seed=seed,
        difference=difference,
    )


def main() -> None:
    versions = record.versions(trl="1.16.0")
    found = [recorded(method, options, seed) for method, options in CASES for seed in SEEDS]
    found += [recorded(method, options, 0, why) for method, options, why in DIFFERENT]
    print(golden.save("trl-1.16-reference-free", found, versions), len(found))


if __name__ == "__main__":
    main()
