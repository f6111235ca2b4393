"""Two language models as one: the law proportional to the product of powers of both."""

from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from alignjax.core import shapes
from alignjax.models import cache as caches
from alignjax.models import model as models
from alignjax.parallel import axes

POLICY, REFERENCE = "policy", "reference"


def geometric(policy: models.Model, reference: models.Model, mix: float) -> models.Model:
    """The geometric mixture of two models over one vocabulary, token by token, as a model:

        log p(token | prefix) = (1 - mix) log policy + mix log reference + constant

    Its parameters are {"policy": bound tree, "reference": bound tree}; its states are those of both
    side by side, and so are its caches. A temperature divides the logits of both. It is no mixture
    of whole sequences: each token's law is normalised by itself.

    Args:
      mix: share of the reference in the exponent, in [0, 1].

    Raises:
      ValueError: mix outside [0, 1], another vocabulary, or logits that are capped, which are no
        product of states and a matrix.

    Reference: Munos et al. 2023 (Nash-MD), arXiv 2312.00886, section 7.
    """
    shapes.check_number("mix", mix, minimum=0, maximum=1)
    if policy.vocab_size != reference.vocab_size:
        raise ValueError(
            f"a mixture must be of two models over one vocabulary; got {policy.vocab_size} and "
            f"{reference.vocab_size} tokens (reference). Give a reference with the policy's."
        )
    if policy.logit_softcap or reference.logit_softcap:
        raise ValueError(
            "a mixture must be of models without a cap on their logits; got "
            f"{policy.logit_softcap:g} and {reference.logit_softcap:g} (model). Take others."
        )
    both = {POLICY: policy, REFERENCE: reference}

    def hidden(
        params: models.Params,
        tokens: jax.Array,
        *,
        positions: jax.Array,
        segments: jax.Array,
        cache: Any = None,
    ) -> tuple[jax.Array, Any]:
        kept = (None, None) if cache is None else (cache.first, cache.second)
        found = [
            own.hidden(params[name], tokens, positions=positions, segments=segments, cache=one)
            for (name, own), one in zip(both.items(), kept, strict=True)
        ]
        states = [axes.shard(x, "batch slot embed") for x, _ in found]
        wide = jnp.concatenate([(1 - mix) * states[0], mix * states[1]], axis=-1)
        return wide, None if cache is None else caches.Both(found[0][1], found[1][1])

    def unembedding(params: models.Params) -> jax.Array:
        tables = [
            axes.shard(m.unembedding(params[name]), "embed vocab") for name, m in both.items()
        ]
        return jnp.concatenate(tables, axis=0)

    def per_model(name: str) -> Any:
        return lambda params: {n: getattr(own, name)(params[n]) for n, own in both.items()}

    def no_head(*arguments: Any) -> NoReturn:
        raise TypeError("a mixture of models has no scalar head (model).")

    return models.Model(
        init=lambda key: {name: own.init(key) for name, own in both.items()},
        hidden=hidden,
        unembedding=unembedding,
        scalar=no_head,
        with_scalar=no_head,
        without_scalar=per_model("without_scalar"),
        cache=lambda batch, length: caches.Both(
            policy.cache(batch, length), reference.cache(batch, length)
        ),
        bind=lambda params, frozen, key=None: params,
        vocab_size=policy.vocab_size,
        logit_tile=policy.logit_tile,
        rounding=max(policy.rounding, reference.rounding),
        narrow=per_model("narrow"),
        prepare=per_model("prepare"),
    )
