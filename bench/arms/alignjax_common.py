"""Weights, optimizer and versions of AlignJAX's arms."""

from typing import Any

import jax
import numpy as np
import optax

import alignjax
from alignjax.models.checkpoints import folder
from alignjax.models.config import TransformerConfig
from alignjax.training import optim
from bench import turns, workloads


def policy(task: turns.Task) -> Any:
    return folder.open_model(task.weights / "policy").load()


def config_of(task: turns.Task) -> TransformerConfig:
    return folder.open_model(task.weights / "policy").config


def size(tree: Any) -> int:
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def optimizer(params: Any, updates: int) -> optax.GradientTransformation:
    settings = optim.OptimConfig(**workloads.OPTIMIZER, schedule="constant", warmup_steps=0)
    return optim.make_optimizer(settings, params, updates)


def versions() -> dict[str, str]:
    return {"alignjax": alignjax.__version__, "jax": jax.__version__}
