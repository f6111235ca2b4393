"""Where adapters go: the weights of a declared model, and how one multiplies activations."""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from alignjax.core import trees
from alignjax.models import params

# Weights of [in, out] that adapters know, by the last part of their path.
TARGETS = ("query", "key", "value", "out", "gate", "up", "down")


class Site(NamedTuple):
    """One stack of a declared weight's sizes and axes: [layers, inputs..., outputs...]."""

    name: str  # its path, e.g. "blocks/0/attention/query"
    layers: int  # in the stack
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    input_axes: str
    output_axes: str

    @property
    def target(self) -> str:
        return self.name.rsplit("/", 1)[-1]

    @property
    def fan_in(self) -> int:
        return math.prod(self.inputs)

    def lead(self, *sizes: int) -> tuple[int, ...]:
        """The shape of something with one entry a layer."""
        return (self.layers, *sizes)


def site(name: str, info: params.ParamInfo) -> Site | None:
    """The weight of that name as a site; None where no adapter can stand.

    Stacks of experts are none, since their matrices are not multiplied one by one, nor are the
    keys and values that latent attention makes of its latents, which decoding multiplies the
    other way round.
    """
    axes, target = info.axes.split(), name.rsplit("/", 1)[-1]
    if target not in TARGETS or axes[0] != "layers" or "experts" in axes:
        return None
    if target in ("key", "value") and "fsdp" not in axes:
        return None
    # Attention's output map sums over heads; every other one over its first axis.
    cut = len(axes) - 1 if name.endswith("attention/out") else 2
    return Site(
        name=name,
        layers=info.shape[0],
        inputs=info.shape[1:cut],
        outputs=info.shape[cut:],
        input_axes=" ".join(axes[1:cut]),
        output_axes=" ".join(axes[cut:]),
    )


def place(declared: Any, targets: tuple[str, ...], make: Callable[[Site], Any]) -> Any:
    """The declared tree with `make(site)` at every target and None elsewhere.

    Raises:
      ValueError: a target matches no weight of the model.
    """
    met: set[str] = set()

    def one(name: str, info: params.ParamInfo) -> Any:
        found = site(name, info)
        if found is None or found.target not in targets:
            return None
        met.add(found.target)
        return make(found)

    tree = trees.map_named(one, declared, is_leaf=params.is_info)
    missing = [target for target in targets if target not in met]
    if missing:
        raise ValueError(
            f"adapter.targets must be weights of the model; got {missing[0]!r}, which it does not "
            "have as a plain matrix (adapter). Name others."
        )
    return tree


def check_targets(targets: tuple[str, ...]) -> None:
    """Refuses names that no model has.

    Raises:
      ValueError: a name is unknown, none is given, or one stands twice.
    """
    unknown = [t for t in targets if t not in TARGETS]
    if unknown or not targets or len(set(targets)) != len(targets):
        raise ValueError(
            f"adapter.targets must be different names among {', '.join(TARGETS)}; got "
            f"{', '.join(targets) or 'none'} (adapter)."
        )


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
