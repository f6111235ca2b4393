"""Sizes, data and training of the experiments on human preferences, by variant."""

import dataclasses
import math

from alignjax.algorithms import dpo, ppo, pretrain, reward, sft
from alignjax.algorithms.grpo import GrpoConfig
from alignjax.data.files import FilesConfig
from alignjax.data.hh import HhConfig
from alignjax.data.instructions import InstructConfig
from alignjax.experiments.common.human import HumanLifecycle
from alignjax.models.adapters.lora import LoraConfig
from alignjax.models.config import MlaConfig, MoeConfig, TransformerConfig
from alignjax.parallel.mesh import MeshConfig
from alignjax.rewards.rules import LastNumber
from alignjax.runs.experiment import Experiment, Training
from alignjax.sampling.transforms import SamplingConfig
from alignjax.training.loop import LoopConfig
from alignjax.training.optim import OptimConfig

VARIANTS = ("", "gpu8", "tiny", "micro")


def training(algorithm, learning_rate: float, steps: int, batch_size: int, **options) -> Training:
    """A stage's training; options go to the loop."""
    return Training(
        algorithm=algorithm,
        optim=OptimConfig(learning_rate=learning_rate, weight_decay=0.01),
        loop=LoopConfig(steps=steps, batch_size=batch_size, **options),
    )


def human(variant: str) -> HumanLifecycle:
    """The lifecycle on hh-rlhf.

    "": 380M parameters on a v5e-16. gpu8: the same on 8 GPUs. tiny: 1.1M parameters, 2 CPU cores,
    at most 20 minutes. micro: for tests.

    Raises:
      ValueError: another variant.
    """
    if variant not in VARIANTS:
        raise ValueError(f"the variants are {', '.join(map(repr, VARIANTS))}; got {variant!r}.")
    if variant in ("tiny", "micro"):
        config = tiny()
        return micro(config) if variant == "micro" else config
    sampling = SamplingConfig(max_new_tokens=256)
    # Both machines hold the whole model many times over: fully sharded data parallelism only.
    devices = 8 if variant == "gpu8" else 16
    return HumanLifecycle(
        data=HhConfig(vocab_size=32000, length=1024, prompt_length=768),
        model=TransformerConfig(
            layers=24, width=1024, heads=16, kv_heads=8, head_dim=64, ff=2816, tied=False,
            compute_dtype="bfloat16", remat="full",
        ),
        mesh=MeshConfig(data=devices),
        pretrain=training(pretrain.PretrainConfig(z_loss=1e-4), 3e-4, 20000, 256),
        sft=training(sft.SftConfig(), 2e-5, 1200, 128),
        reward=training(reward.RewardConfig(), 1e-5, 1200, 128),
        dpo=training(dpo.DpoConfig(beta=0.1), 1e-6, 1200, 128),
        ppo=training(
            ppo.PpoConfig(kl_coefficient=0.05, epochs=4, minibatches=1, missing_eos_penalty=1.0,
                          sampling=sampling),
            1e-6, 1000, 512, micro_batches=4,
        ),
        eval_batch=64,
        eval_prompts=1024,
    )  # fmt: skip


def tiny() -> HumanLifecycle:
    """The same stages at a size that 2 CPU cores train in minutes."""
    sampling = SamplingConfig(max_new_tokens=48)
    return HumanLifecycle(
        data=HhConfig(vocab_size=2048, length=256, prompt_length=192, max_truncated_share=0.8),
        model=TransformerConfig(
            layers=4, width=128, heads=4, kv_heads=2, head_dim=32, ff=352, unroll=4
        ),
        pretrain=training(pretrain.PretrainConfig(), 3e-3, 400, 16),
        sft=training(sft.SftConfig(), 5e-4, 100, 16),
        reward=training(reward.RewardConfig(), 3e-4, 120, 32),
        dpo=training(dpo.DpoConfig(beta=0.1), 1e-4, 90, 32),
        ppo=training(
            ppo.PpoConfig(kl_coefficient=0.1, missing_eos_penalty=1.0, sampling=sampling),
            2e-4, 20, 32,
        ),
        eval_batch=32,
        eval_prompts=128,
    )  # fmt: skip


def micro(config: HumanLifecycle) -> HumanLifecycle:
    """The same stages in seconds."""
    config.model = TransformerConfig(width=32, heads=2, kv_heads=1, head_dim=16, ff=64)
    config.data = dataclasses.replace(
        config.data, vocab_size=400, length=96, prompt_length=48, max_truncated_share=1.0
    )
    for stage in ("pretrain", "sft", "reward", "dpo", "ppo"):
        loop = getattr(config, stage).loop
        loop.steps, loop.batch_size, loop.checkpoint_every = 3, 8, 2
    config.ppo.algorithm.sampling.max_new_tokens = 8
    config.eval_batch, config.eval_prompts = 8, 8
    return config


def experiment(variant: str, stage: str) -> Experiment:
    """One stage of the lifecycle as an experiment of its own."""
    config = human(variant)
    chosen = getattr(config, stage)
    parts = {field.name: getattr(chosen, field.name) for field in dataclasses.fields(chosen)}
    return Experiment(
        **parts, seed=config.seed, model=config.model, data=config.data, mesh=config.mesh
    )


def smollm2(variant: str, stage: str) -> Experiment:
    """SmolLM2-135M-Instruct under LoRA: "sft" on GSM8K, "reward" or "dpo" on hh-rlhf.

    "": 8 chips. cpu: 2 CPU cores, 100 steps on short rows. tiny: the first layers on a few rows,
    for tests. `weights` and `data.tokenizer` name the model on the command line.

    Raises:
      ValueError: another variant.
    """
    if variant not in ("", "cpu", "tiny"):
        raise ValueError(f"the variants are '', 'cpu' and 'tiny'; got {variant!r}.")
    length = {"": 1024, "cpu": 160, "tiny": 64}[variant]
    rows = {"train_rows": {"": 0, "cpu": 1200, "tiny": 24}[variant]}
    cut = {"max_truncated_share": 0.1 if not variant else 1.0}
    lengths = {"length": length, "prompt_length": length * 3 // 4, **rows, **cut}
    data = (
        InstructConfig(template="smollm2", eval_rows=0 if not variant else 64, **lengths)
        if stage == "sft"
        else HhConfig(template="smollm2", eval_rows=0 if not variant else 64, **lengths)
    )
    method, rate = {
        "sft": (sft.SftConfig(), 2e-4),
        "reward": (reward.RewardConfig(), 1e-4),
        "dpo": (dpo.DpoConfig(beta=0.1), 5e-5),
    }[stage]
    steps, batch = {"": (1000, 64), "cpu": (100, 4), "tiny": (3, 4)}[variant]
    return Experiment(
        **vars(training(method, rate, steps, batch)),
        adapter=LoraConfig(
            rank=16, alpha=32.0, targets=("query", "key", "value", "out", "gate", "up", "down")
        ),
        data=data,
        weights_layers=2 if variant == "tiny" else 0,
        mesh=MeshConfig(data=1 if variant else 8),
        model=TransformerConfig(compute_dtype="float32" if variant else "bfloat16"),
    )


# Shapes of open models, by their usual names.
SHAPES = {
    "1b": TransformerConfig(  # Llama 3.2 1B
        vocab_size=128256, layers=16, width=2048, heads=32, kv_heads=8, head_dim=64, ff=8192,
        rope_theta=5e5, tied=True, compute_dtype="bfloat16",
    ),
    "8b": TransformerConfig(  # Llama 3.1 8B
        vocab_size=128256, layers=32, width=4096, heads=32, kv_heads=8, head_dim=128, ff=14336,
        rope_theta=5e5, tied=False, compute_dtype="bfloat16",
    ),
    "70b": TransformerConfig(  # Llama 3.1 70B
        vocab_size=128256, layers=80, width=8192, heads=64, kv_heads=8, head_dim=128, ff=28672,
        rope_theta=5e5, tied=False, compute_dtype="bfloat16",
    ),
    "30b_a3b": TransformerConfig(  # Qwen3 30B-A3B
        vocab_size=151936, layers=48, width=2048, heads=32, kv_heads=4, head_dim=128, ff=6144,
        rope_theta=1e6, qk_norm="scaled", tied=False, compute_dtype="bfloat16",
        moe=MoeConfig(experts=128, active=8, ff=768, balance_loss=1e-3),
    ),
    "671b": TransformerConfig(  # DeepSeek V3
        vocab_size=129280, layers=61, width=7168, heads=128, kv_heads=128, head_dim=128, ff=18432,
        rope_theta=1e4, rope_interleaved=True, tied=False, compute_dtype="bfloat16",
        mla=MlaConfig(kv_rank=512, query_rank=1536, rope_dim=64, value_dim=128),
        moe=MoeConfig(
            experts=256, active=8, ff=2048, shared_ff=2048, scores="sigmoid", scale=2.5,
            bias_correction=True, groups=8, active_groups=4, first=3,
        ),
    ),
}  # fmt: skip
C4 = "c4/en:3.1.0"  # English web text, by its name in TFDS
SCALE_METHODS = ("pretrain", "sft", "reward", "dpo", "dpo-lora", "ppo", "grpo")
OFFLINE = SCALE_METHODS[:-2]
GROUP = 8  # samples of a prompt under GRPO


@dataclasses.dataclass(kw_only=True)
class Slice:
    """A machine, and the batch of a step on it."""

    mesh: dict[str, int]
    rows: int  # of a batch; pairs have two
    length: int  # tokens of a row
    remat: str = "attention"
    micro: dict[str, int] = dataclasses.field(default_factory=dict)  # micro-batches by method
    sampling: int = 8  # the model axis while sampling
    methods: tuple[str, ...] = SCALE_METHODS  # that fit this slice, or need it


def grpo() -> Experiment:
    """GRPO on questions whose answers a rule checks, without a reference in memory."""
    method = GrpoConfig(group=GROUP, rules={"correct": LastNumber()})
    return Experiment(**vars(training(method, 1e-6, 1000, 64)))


def scale(variant: str, shape: str, slices: dict[str, Slice]) -> Experiment:
    """A method at the size of an open model: variant METHOD-SLICE, "dpo-lora-v5e16".

    "" is SFT; METHOD alone is on the first slice that has it; tiny and micro are those of hh_sft.

    Raises:
      ValueError: another variant.
    """
    if variant in ("tiny", "micro"):
        return experiment(variant, "sft")
    names = [f"{method}-{name}" for name, chosen in slices.items() for method in chosen.methods]
    wanted = variant or "sft"
    full = next((n for n in names if wanted in (n, n.rpartition("-")[0])), "")
    if not full:
        raise ValueError(
            f"the variants are {', '.join(names)}, those without their slice; tiny; micro; got "
            f"{variant!r}."
        )
    method, _, name = full.rpartition("-")
    stage, _, adapter = method.partition("-")
    config, chosen = grpo() if stage == "grpo" else experiment("", stage), slices[name]
    rows, tokens, micro = chosen.rows, chosen.length, chosen.micro.get(method, 1)
    shards = math.prod(chosen.mesh.get(axis, 1) for axis in ("replica", "data", "expert"))
    if stage in ("reward", "dpo"):  # as many tokens: half the pairs, or pairs of half the length
        rows, tokens = (rows // 2, tokens) if rows // 2 >= shards else (rows, tokens // 2)
    if stage == "grpo":  # a prompt on each shard of the batch; as many rows at once as elsewhere
        rows, micro = shards, max(GROUP * shards // rows, 1)
    config.model = dataclasses.replace(SHAPES[shape], remat=chosen.remat)
    lengths = {"length": tokens, "prompt_length": tokens // 2}
    if stage == "pretrain":
        config.data = FilesConfig(tfds=C4, layout="text", **lengths)
    else:
        config.data = (InstructConfig if stage == "grpo" else HhConfig)(**lengths)
    config.mesh = MeshConfig(**chosen.mesh)
    config.loop.batch_size = rows
    config.loop.micro_batches = micro
    # A tile of the log-probabilities reads the whole unembedding: few large ones on an accelerator.
    config.model.logit_tile = 512
    if adapter:
        dense = () if config.model.moe.experts else ("gate", "up", "down")
        config.adapter = LoraConfig(
            rank=16, alpha=32.0, targets=("query", "key", "value", "out", *dense)
        )
    if stage in ("ppo", "grpo"):
        config.algorithm.sampling.max_new_tokens = tokens // 2
        config.algorithm.sampling.model_axis = chosen.sampling
    return config
