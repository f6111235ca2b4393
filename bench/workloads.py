"""What every code base runs: models, shapes, optimizer, and the token ids of all rows.

NumPy and the standard library alone: each arm reads this file in its own environment. Ids are drawn
evenly from those above the special ones, as functions of (SEED, workload, number of the row), so
that all arms train on the same rows in the same order.
"""

from typing import NamedTuple

import numpy as np

SEED = 20261120
PAD, BOS, EOS, FIRST = 0, 1, 2, 4  # ids below FIRST are special (3: unknown) and never drawn
HEAD_SPREAD = 0.02  # standard deviation of a reward or value head's weights
THETA, NORM_EPS = 1_000_000, 1e-5
# AdamW, the same learning rate at every step, no accumulation.
OPTIMIZER = {"learning_rate": 1e-5, "b1": 0.9, "b2": 0.999, "eps": 1e-8, "clip_norm": 1.0}
ARMS = {"alignjax": "AlignJAX", "tunix": "Tunix", "trl": "TRL"}


class Model(NamedTuple):
    """A decoder of the Llama family, embedding and unembedding tied."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ff: int
    vocab: int

    @property
    def layer_weights(self) -> int:
        """Numbers in the matrices of all layers."""
        attention = 2 * self.width * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.width * self.ff)

    @property
    def head_weights(self) -> int:
        return self.width * self.vocab

    @property
    def parameters(self) -> int:
        """All numbers that are trained, norms included; without a scalar head."""
        return self.layer_weights + self.head_weights + (2 * self.layers + 1) * self.width


MODELS = {
    "M0": Model(2, 64, 4, 2, 16, 128, 512),  # whether everything runs; never a result
    "M1": Model(6, 320, 5, 5, 64, 896, 8192),  # 10.2M parameters
    "M2": Model(30, 576, 9, 3, 64, 1536, 49152),  # 134.5M, the shape of SmolLM2-135M
}


class Shape(NamedTuple):
    """rows: sequences, pairs or samples of a step. prompt, new: tokens of each part of a row."""

    rows: int
    prompt: int
    new: int


class Lengths(NamedTuple):
    """A lognormal law of lengths in tokens, rounded and cut to least..most; most 0: all fit."""

    median: int
    sigma: float
    least: int


class Workload(NamedTuple):
    """kind: sft | dpo | rm | sample | grpo | rloo | ppo. shapes: by model.

    beta: of DPO, or of the KL to the reference. group: samples of each prompt. lengths: of whole
    rows of sft, or of completions, where they differ.
    """

    kind: str
    about: str
    shapes: dict[str, Shape]
    beta: float = 0.0
    group: int = 1
    lengths: Lengths | None = None

    @property
    def part(self) -> str:
        """Which of an arm's modules runs it."""
        names = {"sft": "training", "dpo": "training", "rm": "training", "sample": "sampling"}
        return names.get(self.kind, "online")


def _shapes(*sizes: tuple[int, int, int]) -> dict[str, Shape]:
    return {name: Shape(*size) for name, size in zip(MODELS, sizes, strict=True)}


_ROWS = _shapes((2, 0, 32), (8, 0, 512), (8, 0, 512))
_PAIRS = _shapes((2, 16, 16), (8, 256, 256), (4, 256, 256))
_SAMPLES = _shapes((4, 8, 8), (16, 64, 128), (16, 64, 128))
_RAGGED = _shapes((8, 8, 16), (64, 64, 256), (64, 64, 256))

WORKLOADS = {
    "W1": Workload("sft", "supervised fine-tuning, full rows", _ROWS),
    "W1v": Workload(
        "sft", "supervised fine-tuning, uneven rows", _ROWS, lengths=Lengths(160, 0.7, 16)
    ),
    "W2": Workload("dpo", "DPO with its reference", _PAIRS, beta=0.1),
    "W3": Workload("rm", "Bradley-Terry reward model", _PAIRS),
    "W4": Workload("sample", "sampling", _SAMPLES),
    "W5grpo": Workload("grpo", "GRPO iteration", _SAMPLES, beta=0.04, group=4),
    "W5rloo": Workload("rloo", "RLOO iteration", _SAMPLES, beta=0.04, group=4),
    "W5ppo": Workload("ppo", "PPO iteration", _SAMPLES, beta=0.04),
    "W5ragged": Workload(
        "grpo", "GRPO iteration, uneven rows", _RAGGED, beta=0.04, group=4,
        lengths=Lengths(40, 1.0, 1),
    ),
}  # fmt: skip
ABSENT = {
    ("W5rloo", "tunix"): "Tunix 0.1.7 has no RLOO",
    ("W5ppo", "trl"): "TRL has no PPO since 1.13",
}


class Case(NamedTuple):
    """A workload on a model."""

    name: str
    model_name: str

    @property
    def workload(self) -> Workload:
        return WORKLOADS[self.name]

    @property
    def model(self) -> Model:
        return MODELS[self.model_name]

    @property
    def shape(self) -> Shape:
        return self.workload.shapes[self.model_name]

    @property
    def prompts(self) -> int:
        """Prompts of a step."""
        return self.shape.rows // self.workload.group

    def lengths(self, step: int) -> np.ndarray:
        """[rows] int32: tokens of each row of sft, or of each completion, its last included."""
        rows, most, law = self.shape.rows, self.shape.new, self.workload.lengths
        if law is None:
            return np.full(rows, most, np.int32)
        # Completions of every iteration have the same lengths: samplers are compiled for them.
        seed = [SEED, step] if self.workload.kind == "sft" else [SEED]
        drawn = np.random.default_rng(seed).lognormal(np.log(law.median), law.sigma, rows)
        return np.clip(drawn.round(), law.least, most).astype(np.int32)

    def ids(self, step: int, rows: int, length: int, stream: int = 0) -> np.ndarray:
        """[rows, length] int32 token ids of a step; stream: 0 prompts and rows, 1 and 2 answers."""
        rng = np.random.default_rng([SEED, step, stream])
        return rng.integers(FIRST, self.model.vocab, (rows, length), np.int32)

    def documents(self, step: int) -> list[np.ndarray]:
        """The rows of a step of sft."""
        ids = self.ids(step, self.shape.rows, self.shape.new)
        return [row[:size] for row, size in zip(ids, self.lengths(step), strict=True)]

    def pairs(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(prompts [P, prompt], chosen [P, new], rejected [P, new]) of a step."""
        rows, prompt, new = self.shape
        return (
            self.ids(step, rows, prompt),
            self.ids(step, rows, new, 1),
            self.ids(step, rows, new, 2),
        )

    def prompt_ids(self, step: int) -> np.ndarray:
        """[prompts, prompt] ids of a step that samples."""
        return self.ids(step, self.prompts, self.shape.prompt)

    def tokens(self, step: int) -> int:
        """What a step is counted by: positions that enter the policy, padding left out, where rows
        are given; sampled tokens where they are sampled."""
        if self.workload.kind in ("dpo", "rm"):
            return 2 * self.shape.rows * (self.shape.prompt + self.shape.new)
        return int(self.lengths(step).sum())


def case(name: str, model: str) -> Case:
    """Raises ValueError for a name that there is not."""
    for what, given, known in (("workload", name, WORKLOADS), ("model", model, MODELS)):
        if given not in known:
            raise ValueError(
                f"a {what} must be one of {', '.join(known)}; got {given!r} (bench). Choose one."
            )
    return Case(name, model)


def head(model: Model) -> np.ndarray:
    """[width] float32: the weights of a reward or value head at the start."""
    rng = np.random.default_rng([SEED, 3])
    return (HEAD_SPREAD * rng.standard_normal(model.width)).astype(np.float32)


def word(token: int) -> str:
    """The text of an id, for code bases that take texts."""
    return f"<{token}>"


def reward(ids: np.ndarray | list[int]) -> float:
    """Of a completion: the share of even ids."""
    return float(np.mean(np.asarray(ids) % 2 == 0))
