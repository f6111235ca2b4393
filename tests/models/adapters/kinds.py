"""Every kind of adapter, roughened away from its start, over the smallest models."""

import jax
import numpy as np

from alignjax.models import layers
from alignjax.models.adapters import adapt, bottleneck, ia3, lora, prefix, sites

KINDS = {
    "lora": lora.LoraConfig(rank=3, targets=sites.TARGETS),
    "dora": lora.LoraConfig(rank=3, dora=True, targets=sites.TARGETS),
    "ia3": ia3.Ia3Config(),
    "houlsby": bottleneck.BottleneckConfig(width=5),
    "pfeiffer": bottleneck.BottleneckConfig(width=5, places="pfeiffer"),
    "prefix": prefix.PrefixConfig(length=3),
}
# Of the vocabulary: apart, since what a rollout reads of it is another tree.
MORE = {"vocabulary": lora.LoraConfig(rank=3, targets=("query", "embed", "unembed"))}


def model_of(name: str, model):
    """The model under the adapter of that kind."""
    return adapt.adapt(model, {**KINDS, **MORE}[name])


def roughen(tree, seed: int = 0, size: float = 0.3):
    """A tree of adapters with noise on every number."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + size * rng.normal(size=x.shape).astype(x.dtype), tree)


def logits(model, params, tokens, positions, segments):
    """[B, T, V]."""
    hidden, _ = model.hidden(params, tokens, positions=positions, segments=segments)
    return hidden @ model.unembedding(params)


def operators(tree):
    """The nodes that stand where matrices do."""
    nodes = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, layers.Operator))
    return [x for x in nodes if isinstance(x, layers.Operator)]
