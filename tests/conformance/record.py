"""What recorders share: random ragged batches as torch leaves, and a call with its gradients."""

import importlib.metadata
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tests.conformance.golden import Golden

B, T = 6, 9
TORCH = "2.13.0"


def versions(**wanted: str) -> dict[str, str]:
    """Versions of the named packages and of torch, to stand in the golden's file.

    Raises:
      SystemExit: this environment holds other versions than the recorder is for.
    """
    wanted = {"torch": TORCH, **{name.replace("_", "-"): v for name, v in wanted.items()}}
    found = {name: importlib.metadata.version(name).split("+")[0] for name in wanted}
    if found != wanted:
        raise SystemExit(f"This recorder is for {wanted}; installed are {found}.")
    return found


def ragged_mask(rng: np.random.Generator, rows: int = B, length: int = T) -> np.ndarray:
    """[rows, length] int: answers of 1 to length - 2 tokens after prompts of at least one."""
    start = rng.integers(1, length - 1, rows)
    end = np.array([rng.integers(s + 1, length + 1) for s in start])
    slots = np.arange(length)[None]
    return ((slots >= start[:, None]) & (slots < end[:, None])).astype(np.int64)


def logprobs(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """Log-probabilities like those of a language model, [B, T] fp32, 0 where not counted."""
    return np.where(mask, -rng.exponential(1.5, mask.shape) - 0.01, 0.0).astype(np.float32)


def near(rng: np.random.Generator, x: np.ndarray, mask: np.ndarray, scale: float = 0.3) -> Any:
    """Those of another policy not far away."""
    moved = np.minimum(x + scale * rng.normal(size=x.shape), -0.001)
    return np.where(mask, moved, 0.0).astype(np.float32)


def leaf(x: np.ndarray, differentiated: bool, wide: bool) -> torch.Tensor:
    if wide and np.issubdtype(x.dtype, np.floating):
        x = x.astype(np.float64)
    return torch.tensor(x, requires_grad=differentiated)


def golden(
    call: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    inputs: dict[str, np.ndarray],
    *,
    wrt: tuple[str, ...],
    wide: bool = True,
    **case: Any,
) -> Golden:
    """The reference's value and its gradients with respect to the inputs named in `wrt`.

    It gets its inputs in float64, if `wide`: what remains between it and a recipe is the recipe's
    own rounding.
    """
    leaves = {k: leaf(v, k in wrt, wide) for k, v in inputs.items()}
    value = call(leaves)
    gradients = {}
    if wrt:
        found = torch.autograd.grad(value.sum(), [leaves[k] for k in wrt], allow_unused=True)
        gradients = {
            k: np.zeros_like(inputs[k]) if g is None else g.detach().numpy()
            for k, g in zip(wrt, found, strict=True)
        }
    return Golden(inputs=inputs, value=value.detach().numpy(), gradients=gradients, **case)
