"""Merging is one product, unmerging the kept base."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.core import trees
from alignjax.models.adapters import adapt, merge
from tests.models import tiny
from tests.models.adapters import kinds

MODEL = tiny.model(tied=False, qkv_bias=True, mlp_bias=True)
ROWS = tiny.rows(tiny.sequences([5, 8, 1]), 8)
BASE = kinds.roughen(MODEL.init(jax.random.key(1)), size=0.1)


def bound(name):
    adapted = kinds.model_of(name, MODEL)
    own = kinds.roughen(adapted.init(jax.random.key(0)), size=0.1)
    return adapted.bind(own, {"base": BASE})


@pytest.mark.parametrize("name", ["lora", "dora", "ia3"])
def test_merged_weights_do_the_same_and_go_back_to_the_same_bits(name):
    tree = bound(name)
    before = jax.tree.map(np.asarray, BASE)
    merged, kept = merge.merge(tree)
    assert jax.tree.structure(merged) == jax.tree.structure(BASE)
    assert not trees.differences(BASE, merged)
    expected = kinds.logits(MODEL, tree, *ROWS)
    assert np.abs(expected - kinds.logits(MODEL, BASE, *ROWS)).max() > 0.05
    np.testing.assert_allclose(kinds.logits(MODEL, merged, *ROWS), expected, atol=1e-5)
    assert set(kept) < set(trees.named_leaves(BASE))
    jax.tree.map(np.testing.assert_array_equal, merge.unmerge(merged, kept), before)
    assert merge.whole(BASE) is BASE


@pytest.mark.parametrize("name", ["houlsby", "prefix"])
def test_what_is_no_matrix_is_not_merged(name):
    with pytest.raises(ValueError, match="only LoRA, DoRA and IA3 can be merged"):
        merge.merge(bound(name))


def test_a_bfloat16_base_is_rounded_once():
    model = tiny.model(param_dtype="bfloat16")
    base = model.init(jax.random.key(1))
    adapted = kinds.model_of("lora", model)
    own = kinds.roughen(adapted.init(jax.random.key(0)), size=0.05)
    merged, _ = merge.merge(adapted.bind(own, {"base": base}))
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), base)
    exact, _ = merge.merge(adapted.bind(own, {"base": wide}))
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), exact)
    jax.tree.map(np.testing.assert_array_equal, merged, rounded)
    assert adapt.has_adapters(own)
    assert not adapt.has_adapters(merged)
