"""Records Nash-MD, XPO, GSPO-token and MiniLLM of TRL 1.13.0: their own methods that compute the
loss, fed with log-probabilities.

In an environment with `pip install torch==2.13.0 trl==1.13.0 requests`, from the root of the
repository: python -m tests.conformance.record_trl_1_13_policy
"""

import types
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from trl.experimental.gspo_token.grpo_trainer import GRPOTrainer
from trl.experimental.minillm.minillm_trainer import MiniLLMTrainer
from trl.experimental.nash_md.nash_md_trainer import NashMDTrainer
from trl.experimental.xpo.xpo_trainer import XPOTrainer

from tests.conformance import golden, record

SEEDS = (0, 1, 2)
B, T, V = 6, 7, 5
Arrays = dict[str, torch.Tensor]
PADDED = (
    "TRL counts every slot of the batch, padding too: its mask marks labels of -100, of which the"
)
PADDED += " sampled tokens have none"
NORMALISED = "TRL counts each pad after a token as 1e-4 of a token in the length it divides by"


def draw(seed: int, *, padded: bool = True) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    scale = (0.2, 1.0, 3.0)[seed]
    out: dict[str, np.ndarray] = {}
    for side in ("", "other_"):
        lengths = rng.integers(1, T + 1, B) if padded else np.full(B, T)
        mask = (np.arange(T)[None] < lengths[:, None]).astype(np.int64)
        logprobs = record.logprobs(rng, mask)
        out |= {
            f"{side}mask": mask,
            f"{side}logprobs": logprobs,
            f"reference_{side}logprobs": record.near(rng, logprobs, mask, scale),
        }
    mask, logprobs = out["mask"], out["logprobs"]
    both = 2.0 * rng.normal(size=(2, B, T, V)).astype(np.float32)
    return out | {
        "preferences": rng.uniform(size=B).astype(np.float32),
        "preferred": rng.integers(0, 2, B),
        "old_logprobs": record.near(rng, logprobs, mask, scale),
        "teacher_logprobs": record.near(rng, logprobs, mask, scale),
        "advantages": rng.normal(size=(B, T)).astype(np.float32),
        "student_logits": both[0],
        "teacher_logits": both[1],
    }


def bare(kind: type, **attributes: Any) -> Any:
    """A trainer with these attributes, and nothing else."""
    made = kind.__new__(kind)
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def nash_md(options: dict[str, Any], arrays: Arrays) -> torch.Tensor:
    made = bare(NashMDTrainer, _beta=options.get("beta", 0.1))
    mask = arrays["mask"]  # TRL fills padding with 0 before it calls its loss
    pair = arrays["logprobs"] * mask, arrays["reference_logprobs"] * mask
    return made._compute_losses(*pair, arrays["preferences"])[0]


def xpo(options: dict[str, Any], arrays: Arrays) -> torch.Tensor:
    link = {"dpo": "sigmoid", "ipo": "ipo"}[options.get("link", "dpo")]
    made = bare(
        XPOTrainer,
        _beta=options.get("beta", 0.1),
        _alpha=options.get("optimism", 1e-5),
        args=types.SimpleNamespace(loss_type=link),
    )
    names = "logprobs", "other_logprobs", "reference_other_logprobs", "reference_logprobs"
    masks = arrays["mask"], arrays["other_mask"], arrays["other_mask"], arrays["mask"]
    given = [arrays[name] * mask for name, mask in zip(names, masks, strict=True)]
    return made._compute_losses(*given, arrays["preferred"].bool())[0]


def gspo_token(options: dict[str, Any], arrays: Arrays) -> torch.Tensor:
    mask, low = arrays["mask"], options.get("clip_low", 0.2)
    made = bare(
        GRPOTrainer,
        accelerator=types.SimpleNamespace(
            num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x
        ),
        model=types.SimpleNamespace(training=True),
        _metrics={"train": defaultdict(list)},
        args=types.SimpleNamespace(delta=options.get("dual_clip"), steps_per_generation=1),
        loss_type={"token_mean": "dapo", "row_mean": "grpo"}[
            options.get("reduction", "token_mean")
        ],
        importance_sampling_level="sequence_token",
        top_entropy_quantile=1.0,
        beta=options.get("kl_weight", 0.0),
        epsilon_low=low,
        epsilon_high=options.get("clip_high", low),
        use_vllm=False,
        current_gradient_accumulation_steps=1,
    )
    entropy = torch.ones_like(arrays["logprobs"])
    made._get_per_token_logps_and_entropies = lambda *_, **__: (arrays["logprobs"], entropy, None)
    batch = {
        **{name: torch.ones(B, 1, dtype=torch.long) for name in ("prompt_ids", "prompt_mask")},
        "completion_ids": mask,
        "completion_mask": mask,
        "advantages": arrays["advantages"],
        "old_per_token_logps": arrays["old_logprobs"],
        "ref_per_token_logps": arrays.get("reference_logprobs"),
        "num_items_in_batch": mask.sum(),
    }
    return made._compute_loss(made.model, batch)


def minillm(options: dict[str, Any], arrays: Arrays) -> torch.Tensor:
    """`compute_loss` without the policy loss: the single-step part alone."""

    def model(x: torch.Tensor) -> Any:
        # TRL drops the last position; the one before the answer predicts its first token.
        logits = torch.nn.functional.pad(x, (0, 0, 0, 1))
        called = lambda **_: types.SimpleNamespace(logits=logits)  # noqa: E731
        called.eval = lambda: None  # type: ignore[attr-defined]
        return called

    made = bare(
        MiniLLMTrainer,
        kd_temperature=options.get("temperature", 1.0),
        rkl_advantage=False,
        single_step_decomposition=True,
        teacher_model=model(arrays["teacher_logits"]),
    )
    made._compute_loss = lambda *_: torch.zeros((), dtype=torch.float64)
    one = torch.ones(B, 1, dtype=torch.long)
    mask = arrays["mask"]
    batch = {
        "prompt_ids": one,
        "prompt_mask": one,
        "completion_ids": mask,
        "completion_mask": mask,
    }
    return made.compute_loss(model(arrays["student_logits"]), batch)


def minillm_advantages(options: dict[str, Any], arrays: Arrays) -> torch.Tensor:
    made = bare(
        MiniLLMTrainer,
        gamma=options.get("discount", 0.0),
        length_normalization=options.get("length_normalise", True),
    )
    given = arrays["logprobs"], arrays["teacher_logprobs"], arrays["mask"]
    return made._compute_advantage(*given)


Call = Callable[[dict[str, Any], Arrays], torch.Tensor]
USED: dict[Call, str] = {
    nash_md: "logprobs reference_logprobs preferences mask",
    xpo: "logprobs reference_logprobs mask other_logprobs reference_other_logprobs other_mask "
    "preferred",
    gspo_token: "logprobs old_logprobs advantages mask",
    minillm: "student_logits teacher_logits mask",
    minillm_advantages: "logprobs teacher_logprobs mask",
}
WRT = {
    xpo: ("logprobs", "other_logprobs"),
    minillm: ("student_logits",),
    minillm_advantages: (),
}
KL = {"kl_weight": 0.1}
# (call, options, whether the batch is padded, difference)
CASES: list[tuple[Call, dict[str, Any], bool, str]] = [
    *[(nash_md, options, True, "") for options in ({}, {"beta": 0.7})],
    *[
        (xpo, options, True, "")
        for options in (
            {},
            {"beta": 0.7, "optimism": 0.2},
            {"beta": 0.7, "optimism": 0.2, "link": "ipo"},
        )
    ],
    *[
        (gspo_token, {**options, "reduction": reduction}, True, "")
        for reduction in ("token_mean", "row_mean")
        for options in ({}, KL, {"clip_low": 0.1, "clip_high": 0.3, "dual_clip": 1.5})
    ],
    *[(minillm, options, False, "") for options in ({}, {"temperature": 2.0})],
    (minillm, {}, True, PADDED),
    (minillm_advantages, {}, True, ""),
    (minillm_advantages, {"discount": 0.9}, False, ""),
    (minillm_advantages, {"discount": 0.9}, True, NORMALISED),
    (minillm_advantages, {"discount": 0.9, "length_normalise": False}, True, ""),
]


def main() -> None:
    versions = record.versions(trl="1.13.0")
    found = []
    for call, options, padded, difference in CASES:
        names = USED[call].split() + ["reference_logprobs"] * ("kl_weight" in options)
        for seed in SEEDS:
            drawn = draw(seed, padded=padded)
            found.append(
                record.golden(
                    lambda arrays, c=call, o=options: c(o, arrays),
                    {name: drawn[name] for name in names},
                    wrt=WRT.get(call, ("logprobs",)),
                    preset="trl-1.13",
                    method=call.__name__,
                    options=options,
                    seed=seed,
                    difference=difference,
                )
            )
    print(golden.save("trl-1.13-policy", found, versions), len(found))


if __name__ == "__main__":
    main()
