"""The optimizer: AdamW with a schedule, a decay mask, freezing and clipping."""

import dataclasses
import re
from typing import Any

import jax
import optax

from alignjax.core import shapes, trees

SCHEDULES = ("constant", "linear", "cosine")


@dataclasses.dataclass(kw_only=True)
class OptimConfig:
    """AdamW (Loshchilov and Hutter 2019) and its learning-rate schedule."""

    learning_rate: float = 1e-3  # the peak
    schedule: str = "cosine"  # constant | linear | cosine, after the warm-up
    warmup_steps: int = 20  # updates from 0 to the peak
    final_fraction: float = 0.0  # of the peak, reached right after the last update
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    no_decay: str = (
        "norm|scalar|embed|correction"  # regex on parameter paths that are never decayed
    )
    freeze: str = ""  # regex on parameter paths that are not trained; empty freezes nothing
    clip_norm: float = 1.0  # of the global gradient norm; 0 is off

    def validate(self) -> None:
        shapes.check_number("optim.learning_rate", self.learning_rate, minimum=0)
        shapes.check_choice("optim.schedule", self.schedule, SCHEDULES)
        for name in ("warmup_steps", "weight_decay", "clip_norm"):
            shapes.check_number(f"optim.{name}", getattr(self, name), minimum=0)
        shapes.check_number("optim.final_fraction", self.final_fraction, minimum=0, maximum=1)
        shapes.check_number("optim.b1", self.b1, minimum=0, below=1)
        shapes.check_number("optim.b2", self.b2, minimum=0, below=1)
        shapes.check_number("optim.eps", self.eps, above=0)
        for name in ("no_decay", "freeze"):
            try:
                re.compile(getattr(self, name))
            except re.error as error:
                raise ValueError(
                    f"optim.{name} must be a regular expression; got "
                    f"{getattr(self, name)!r}: {error}."
                ) from None


def make_schedule(config: OptimConfig, updates: int) -> optax.Schedule:
    """Learning rate by update number: linear warm-up, then the schedule down to its end."""
    peak, warmup = config.learning_rate, min(config.warmup_steps, max(updates - 1, 0))
    rest, final = max(updates - warmup, 1), config.learning_rate * config.final_fraction
    after = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, final, rest),
        "cosine": optax.cosine_decay_schedule(peak, rest, config.final_fraction),
    }[config.schedule]
    if not warmup:
        return after
    # The first update already moves: the ramp goes through peak/warmup, 2 peak/warmup, ...
    ramp = optax.linear_schedule(peak / warmup, peak, warmup - 1 or 1)
    return optax.join_schedules([ramp, after], [warmup])


def make_optimizer(config: OptimConfig, params: Any, updates: int) -> optax.GradientTransformation:
    """The transformation for a tree of parameters over a number of updates.

    Where params is a dictionary of separate networks (a policy and its critic), each is clipped by
    its own global norm: one network's gradient scale never throttles another.

    Raises:
      ValueError: `freeze` matches no parameter, or all of them.
    """
    config.validate()
    steps = [
        optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
        optax.add_decayed_weights(
            config.weight_decay,
            mask=lambda tree: trees.map_named(
                lambda name, _: re.search(config.no_decay, name) is None, tree
            ),
        ),
        optax.scale_by_learning_rate(make_schedule(config, updates)),
    ]
    if not config.weight_decay:
        del steps[1]
    if config.clip_norm:
        steps.insert(0, optax.clip_by_global_norm(config.clip_norm))
    if not isinstance(params, dict) and not config.freeze:
        return optax.chain(*steps)
    networks = list(params) if isinstance(params, dict) else [""]
    labels = trees.map_named(
        lambda name, _: name.split("/")[0] if isinstance(params, dict) else "", params
    )
    if config.freeze:
        frozen = trees.matching(params, config.freeze)
        if len(set(jax.tree.leaves(frozen))) == 1:
            raise ValueError(
                f"optim.freeze must match some parameters but not all; got {config.freeze!r}, "
                f"which matches {'all' if jax.tree.leaves(frozen)[0] else 'none'} of "
                f"{', '.join(trees.named_leaves(params))}."
            )
        labels = jax.tree.map(lambda label, f: "frozen" if f else label, labels, frozen)
    transforms = {name: optax.chain(*steps) for name in networks}
    return optax.partition({**transforms, "frozen": optax.set_to_zero()}, labels)
