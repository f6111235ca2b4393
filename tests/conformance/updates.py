"""Three updates of a tiny Llama: what every code base computes them from, and what came out.

Two prompts of three answers each; the old log-probabilities are those of the weights at the start,
so that the second and third update have ratios other than 1. The reference is another set of
weights, and rewards differ within each group and between groups. All in fp32.

A file of recordings is one `.npz` in goldens/updates: a JSON index under "index" and the arrays
that it names. Recorders (record_updates_*.py) write it in their own environment; the tests read it
with numpy alone.
"""

import dataclasses
import functools
import json
import pathlib
from typing import Any

import numpy as np

FOLDER = pathlib.Path(__file__).parent / "goldens" / "updates"
ONLINE = FOLDER.parent / "online"  # of methods on pairs of samples, see online_updates.py
PAD, EOS = 0, 1
PROMPTS, SAMPLES, UPDATES = 2, 3, 3
PROMPT, ANSWER = 4, 6  # tokens, at most
SHAPE = {
    "vocab_size": 16,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,  # what Tunix takes, whatever it is told
    "tie_word_embeddings": False,
}
# AdamW whose steps depend on the size of gradients: eps is as large as many of them, so that a loss
# of the wrong scale shows, and entries near 0 do not blow rounding up. No schedule.
OPTIM = {
    "learning_rate": 6e-3,
    "b1": 0.9,
    "b2": 0.99,
    "eps": 3e-2,
    "weight_decay": 0.1,
    "clip_norm": 1.0,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recorded:
    """Three updates of a reference.

    preset, algorithm, options: the method that must agree, and the fields of its configuration.
      micro_batches: parts of each update.
    no_decay: of its optimizer: a regex on our parameters' names that are not decayed.
    params: [3, n], after each update: the tensors of `tensors()` one after the other.
    norms, losses: [3], of each update: the global norm of the gradient before it is clipped, and
      the loss; nan where the reference does not tell.
    old_logprobs: [6, 6] of the answers' tokens by the weights at the start, 0 behind them.
    difference: why the method differs on purpose; "" if it must agree.
    """

    preset: str
    algorithm: str
    options: dict[str, Any]
    params: np.ndarray
    norms: np.ndarray
    losses: np.ndarray
    old_logprobs: np.ndarray
    no_decay: str
    micro_batches: int = 1
    difference: str = ""

    @property
    def name(self) -> str:
        options = ",".join(f"{k}={v}" for k, v in self.options.items())
        parts = f" in {self.micro_batches} parts" if self.micro_batches > 1 else ""
        return f"{self.preset}-{self.algorithm}[{options}]{parts}"


ARRAYS = ("params", "norms", "losses", "old_logprobs")


def save(
    name: str, recorded: list[Recorded], versions: dict[str, str], folder: pathlib.Path = FOLDER
) -> pathlib.Path:
    """Writes NAME.npz in a folder: `versions` are those of the packages that computed them."""
    arrays, index = {}, []
    for number, one in enumerate(recorded):
        entry = dataclasses.asdict(one)
        for key in ARRAYS:
            arrays[f"{number}/{key}"] = np.asarray(entry.pop(key), np.float32)
        index.append(entry)
    text = json.dumps({"versions": versions, "recorded": index})
    file = folder / f"{name}.npz"
    folder.mkdir(exist_ok=True)
    np.savez_compressed(file, index=np.array(text), **arrays)  # type: ignore[arg-type]
    return file


@functools.cache
def load(file: pathlib.Path) -> tuple[list[Recorded], dict[str, str]]:
    """(recordings, versions) of a file."""
    with np.load(file) as data:
        index = json.loads(str(data["index"]))
        recorded = [
            Recorded(**entry, **{key: data[f"{number}/{key}"] for key in ARRAYS})
            for number, entry in enumerate(index["recorded"])
        ]
    return recorded, index["versions"]


def every(folder: pathlib.Path = FOLDER) -> list[Recorded]:
    """All recordings of a folder."""
    return [one for file in sorted(folder.glob("*.npz")) for one in load(file)[0]]


# --- the model and its samples ------------------------------------------------------------------


def tensors() -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of the model, as transformers names them."""
    sizes: dict[str, Any] = SHAPE
    width, wide, vocab = (sizes[k] for k in ("hidden_size", "intermediate_size", "vocab_size"))
    queries = sizes["num_attention_heads"] * sizes["head_dim"]
    keys = sizes["num_key_value_heads"] * sizes["head_dim"]
    layer = "model.layers.0."
    return {
        "model.embed_tokens.weight": (vocab, width),
        f"{layer}self_attn.q_proj.weight": (queries, width),
        f"{layer}self_attn.k_proj.weight": (keys, width),
        f"{layer}self_attn.v_proj.weight": (keys, width),
        f"{layer}self_attn.o_proj.weight": (width, queries),
        f"{layer}mlp.gate_proj.weight": (wide, width),
        f"{layer}mlp.up_proj.weight": (wide, width),
        f"{layer}mlp.down_proj.weight": (width, wide),
        f"{layer}input_layernorm.weight": (width,),
        f"{layer}post_attention_layernorm.weight": (width,),
        "model.norm.weight": (width,),
        "lm_head.weight": (vocab, width),
    }


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    """The policy at the start; with another seed the reference, not far away."""
    drawn = {}
    rng = np.random.default_rng(0)
    for name, shape in tensors().items():
        spread = 0.1 if len(shape) == 1 else 0.4
        drawn[name] = (len(shape) == 1) + spread * rng.normal(size=shape)
    if seed:
        rng = np.random.default_rng(seed)
        drawn = {name: x + 0.05 * rng.normal(size=x.shape) for name, x in drawn.items()}
    return {name: x.astype(np.float32) for name, x in drawn.items()}


def flat(values: dict[str, Any]) -> np.ndarray:
    """[n]: the tensors of `tensors()` one after the other."""
    return np.concatenate([np.asarray(values[name]).reshape(-1) for name in tensors()])


def samples() -> dict[str, Any]:
    """prompts: lists of ids; answers: a list of ids for each row, EOS included; rewards [P, N]."""
    rng = np.random.default_rng(7)
    vocab: Any = SHAPE["vocab_size"]
    prompts = [rng.integers(2, vocab, n).tolist() for n in (PROMPT, 2)]
    lengths = (6, 3, 5, 4, 6, 1)
    answers = [rng.integers(2, vocab, n).tolist() for n in lengths]
    for row in (1, 2, 3, 5):
        answers[row][-1] = EOS
    rewards = np.array([[1.0, 0.0, 0.3], [-0.5, 2.5, 1.0]], np.float32)
    return {"prompts": prompts, "answers": answers, "rewards": rewards}


def mask() -> np.ndarray:
    """[6, 6]: 1 on the tokens of each answer."""
    lengths = np.array([len(ids) for ids in samples()["answers"]])
    return (np.arange(ANSWER)[None] < lengths[:, None]).astype(np.int64)
