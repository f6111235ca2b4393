"""Where adapters go: the weights of a declared model, and how one multiplies activations."""

import difflib
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from alignjax.core import trees
from alignjax.models import params

# Weights of [in, out] that adapters know, by the last part of their path.
TARGETS = ("query", "key", "value", "out", "gate", "up", "down")
# Under latent attention: the maps to the latents of queries and of keys and values. There "key" and
# "value" are the halves of the map from the latter.
LATENTS = ("query_down", "latent")
# The gate of what attention mixes, and of layers of the gated delta rule that and their two numbers
# a head; of a short convolution the gates before and behind it.
MIXERS = ("out_gate", "write", "decay", "in_gate")
LINEAR = (*TARGETS, *LATENTS, *MIXERS)
# Stacks of routed experts: gate and up side by side, and the way back.
EXPERTS = ("experts_in", "experts_down")
# Gate and up of routed experts one by one, with maps in of their own (older releases of peft).
APART = ("experts_gate", "experts_up")
ALL_LINEAR = "all-linear"
# What others call them.
KNOWN_AS = {
    "q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "out", "gate_proj": "gate",
    "up_proj": "up", "down_proj": "down", "embed_tokens": "embed", "lm_head": "unembed",
    "input_layernorm": "attention_norm", "post_attention_layernorm": "mlp_norm",
    "q_a_proj": "query_down", "q_b_proj": "query", "kv_a_proj_with_mqa": "latent",
    "kv_b_proj": "key and value", "w1": "experts_gate", "w3": "experts_up", "w2": "experts_down",
}  # fmt: skip


class Site(NamedTuple):
    """One stack of a declared weight's sizes and axes: [layers, (experts,) inputs..., outputs...].

    partner: the path of another site where the two halve one matrix, whose inputs they share; "" of
    the first of them, and of others.
    """

    name: str  # its path, e.g. "blocks/0/attention/query"
    stacked: tuple[int, ...]  # layers, and experts where it is a stack of those
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    input_axes: str
    output_axes: str
    partner: str = ""
    apart: bool = False  # of experts: gate or up by itself

    @property
    def target(self) -> str:
        if self.apart:
            return f"experts_{self.name.rsplit('/', 1)[-1]}"
        return target_of(self.name, experts=self.has_experts)

    @property
    def has_experts(self) -> bool:
        return len(self.stacked) > 1

    @property
    def fan_in(self) -> int:
        return math.prod(self.inputs)

    def lead(self, *sizes: int) -> tuple[int, ...]:
        """The shape of something with one entry a layer, or an expert of a layer."""
        return (*self.stacked, *sizes)

    @property
    def lead_axes(self) -> str:
        return "layers experts" if self.has_experts else "layers"


def is_adapter(x: Any) -> bool:
    """Whether a node of a tree is an adapter or the place of a weight that has none."""
    return x is None or hasattr(x, "over")


def target_of(name: str, *, experts: bool) -> str:
    """What a configuration calls the weight of that path."""
    last = name.rsplit("/", 1)[-1]
    if experts:
        return "experts_down" if last == "down" else "experts_in"
    return "latent" if last == "rotated" else last


# The second halves of matrices that peft stores as one, and their first halves.
HALVES = {"rotated": "latent", "value": "key", "up": "gate"}


def site(name: str, info: params.ParamInfo) -> Site | None:
    """The weight of that name as a site; None where no adapter can stand."""
    axes, last = info.axes.split(), name.rsplit("/", 1)[-1]
    if last not in (*LINEAR, "rotated") or axes[0] != "layers":
        return None
    experts = "experts" in axes
    start = 2 if experts else 1
    # Attention's output map sums over heads; every other one over its first axis.
    cut = len(axes) - 1 if name.endswith("attention/out") else start + 1
    halves = experts or last == "rotated" or reads_latents(name, info)
    return Site(
        name=name,
        stacked=info.shape[:start],
        inputs=info.shape[start:cut],
        outputs=info.shape[cut:],
        input_axes=" ".join(axes[start:cut]),
        output_axes=" ".join(axes[cut:]),
        partner=f"{name.rpartition('/')[0]}/{HALVES[last]}" if halves and last in HALVES else "",
    )


def reads_latents(name: str, info: params.ParamInfo) -> bool:
    """Whether the weight makes keys or values of latents."""
    return name.endswith(("attention/key", "attention/value")) and "fsdp" not in info.axes.split()


def place(
    declared: Any, targets: tuple[str, ...], make: Callable[[Site], Any], *, halves: bool = False
) -> Any:
    """The declared tree with `make(site)` at every target and None elsewhere.

    halves: whether `make` knows matrices that stand in two places; else they are no sites.

    Raises:
      ValueError: a target matches no weight of the model.
    """
    met: set[str] = set()

    def one(name: str, info: params.ParamInfo) -> Any:
        match = site(name, info)
        if match is not None and match.has_experts and halves:
            alone = match._replace(apart=True, partner="")
            match = alone if alone.target in APART and alone.target in targets else match
        if match is None or match.target not in targets:
            return None
        if not halves and (match.partner or reads_latents(name, info)):
            return None
        met.add(match.target)
        return make(match)

    tree = trees.map_named(one, declared, is_leaf=params.is_info)
    missing = [target for target in targets if target not in met]
    if missing:
        raise ValueError(
            f"adapter.targets must be weights of the model; got {missing[0]!r}, which it does not "
            "have as a plain matrix (adapter). Name others."
        )
    return tree


def linear(declared: Any) -> tuple[str, ...]:
    """Targets of every linear map of a declared model but routed experts and the unembedding."""
    infos = jax.tree_util.tree_leaves_with_path(declared, is_leaf=params.is_info)
    found = [site(trees.path_name(path), info) for path, info in infos]
    return tuple(dict.fromkeys(x.target for x in found if x is not None and not x.has_experts))


def check_targets(
    targets: tuple[str, ...], known: tuple[str, ...] = TARGETS, field: str = "targets"
) -> None:
    """Refuses names that no model has.

    Raises:
      ValueError: a name is unknown, none is given, or one stands twice; with the nearest name.
    """
    unknown = [t for t in targets if t not in known]
    if unknown or not targets or len(set(targets)) != len(targets):
        raise ValueError(
            f"adapter.{field} must be different names among {', '.join(known)}; got "
            f"{', '.join(targets) or 'none'} (adapter).{_nearest(unknown, known)}"
        )


def _nearest(unknown: list[str], known: tuple[str, ...]) -> str:
    """A sentence on what a name was meant to be; "" where nothing is near."""
    if not unknown:
        return ""
    near = [KNOWN_AS[unknown[0]]] if unknown[0] in KNOWN_AS else []
    near = near or difflib.get_close_matches(unknown[0], known, n=2)
    return f" For {unknown[0]} say {' or '.join(near)}." if near else ""


class Sides(NamedTuple):
    """The letters of "btd,dkgh->btkgh" and the axes of its operands by side."""

    lead: str  # letters of the rows, "bt"
    inputs: str  # letters summed over
    outputs: str  # letters of the weight that stay
    lead_axes: str
    input_axes: str
    output_axes: str


def sides(equation: str, stored: str, out: str) -> Sides:
    """The sides of a linear map whose weight is [inputs..., outputs...].

    Raises:
      ValueError: the equation is no such map.
    """
    match = re.fullmatch(r"(\w+),(\w+)->(\w+)", equation)
    x, weight, result = match.groups() if match else ("", "", "")
    inputs = "".join(letter for letter in weight if letter not in result)
    outputs, lead = weight[len(inputs) :], x[: len(x) - len(inputs)]
    if not match or weight != inputs + outputs or x != lead + inputs or result != lead + outputs:
        raise ValueError(
            f"an adapted weight must be [inputs, outputs] of rows [..., inputs]; got {equation}."
        )
    names = stored.split()
    return Sides(
        lead=lead,
        inputs=inputs,
        outputs=outputs,
        lead_axes=" ".join(out.split()[: len(lead)]),
        input_axes=" ".join(names[: len(inputs)]),
        output_axes=" ".join(names[len(inputs) :]),
    )


def in_order(equation: str, out: str) -> tuple[str, str, tuple[int, ...]]:
    """(the map with its result as rows, then outputs, its axes, the places of the wanted axes).

    "bsr,rkh->bksh" is "bsr,rkh->bskh", transposed by (0, 2, 1, 3).
    """
    operands, _, result = equation.partition("->")
    x, _, weight = operands.partition(",")
    wanted = "".join(a for a in x if a in result) + "".join(a for a in weight if a in result)
    if sorted(wanted) != sorted(result):
        return equation, out, tuple(range(len(result)))
    names = dict(zip(result, out.split(), strict=True))
    order = tuple(wanted.index(letter) for letter in result)
    return f"{operands}->{wanted}", " ".join(names[letter] for letter in wanted), order
