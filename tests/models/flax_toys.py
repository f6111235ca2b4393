"""Language models as users of Flax write them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from alignjax.models import flax_bridge, flax_contract
from tests.training import tiny

WIDTH = 16


class LinenToy(nn.Module):
    """One attention layer that is told positions and a mask; the head has a bias."""

    vocab: int = tiny.VOCAB
    width: int = WIDTH

    def setup(self):
        self.embed = nn.Embed(self.vocab, self.width)
        self.place = nn.Embed(32, self.width)
        self.attend = nn.MultiHeadDotProductAttention(num_heads=2)
        self.mlp = nn.Dense(self.width)
        self.norm = nn.LayerNorm()
        self.head = nn.Dense(self.vocab, bias_init=nn.initializers.normal(0.1))

    def hidden(self, tokens, positions, mask):
        x = self.embed(tokens) + self.place(positions)
        x = x + self.attend(x, mask=mask)
        return self.norm(x + nn.relu(self.mlp(x)))

    def __call__(self, tokens, positions, mask):
        return self.head(self.hidden(tokens, positions, mask))


class NnxToy(nnx.Module):
    """Sums over what came before: it knows neither positions nor padding. Tied, with dropout."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(tiny.VOCAB, WIDTH, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(WIDTH, WIDTH, rngs=rngs) for _ in range(2)])
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def enter(self, tokens):
        return jnp.tanh(self.layers[0](self.embed(tokens)))

    def leave(self, total):
        return self.drop(jnp.tanh(self.layers[1](0.3 * total)))

    def __call__(self, tokens):
        return self.leave(jnp.cumsum(self.enter(tokens), axis=1))


LINEN = flax_contract.Contract(
    unembedding="head/kernel",
    bias="head/bias",
    states="hidden",
    inputs=("tokens", "positions", "mask"),
)
NNX = flax_contract.Contract(unembedding=lambda p: p["embed"]["embedding"].T, inputs=("tokens",))


def running_sum(module, tokens, positions, segments, cache):
    """NnxToy with a cache: the sum so far."""
    added = jnp.where(segments[..., None] > 0, module.enter(tokens), 0.0)
    total = cache[:, None] + jnp.cumsum(added, axis=1)
    return module.leave(total), total[:, -1]


def linen_model():
    return flax_bridge.from_linen(LinenToy(), LINEN)


def nnx_model():
    return flax_bridge.from_nnx(NnxToy, NNX)


MAKERS = {"linen": linen_model, "nnx": nnx_model}


def params(model, seed=0):
    """Initial weights, spread over nats."""
    return jax.tree.map(lambda x: 2 * x, jax.jit(model.init)(jax.random.key(seed)))
