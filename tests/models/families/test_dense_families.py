"""Families without experts against what transformers computed: record_dense.py."""

import jax
import numpy as np
import pytest

from alignjax.core import trees
from alignjax.models.checkpoints import folder
from alignjax.parallel import mesh
from tests.models.families import golden

LOGITS, GRADIENTS = 1e-4, 1e-3  # absolute; relative to a tensor's largest entry
every = pytest.mark.parametrize("path", golden.marked(golden.DENSE), ids=lambda path: path.name)


def test_the_goldens_cover_all_families():
    stored = [golden.dense(path).stored for path in golden.DENSE]
    stored += [golden.sparse(path).stored for path in golden.SPARSE]
    assert {one.fields["model_type"] for one in stored} == folder.FAMILIES.keys()


@every
def test_logits_of_padded_batches(path):
    found = golden.dense(path)
    assert np.std(found.logits) > 0.3, "logits so flat would agree by themselves"
    for side in ("left", "right"):
        assert golden.padded_error(found, side) < LOGITS


@every
def test_logits_of_packed_rows(path):
    assert golden.packed_error(golden.dense(path)) < LOGITS


@every
def test_logits_by_a_cache(path):
    assert golden.decoded_error(golden.dense(path)) < LOGITS


@every
def test_loss_and_gradients(path):
    loss, gradients = golden.gradient_error(golden.dense(path))
    assert loss < LOGITS
    assert gradients < GRADIENTS


@every
def test_loading_on_a_mesh(path):
    """Each device reads its own slices; an odd number of heads leaves out the model axis."""
    found = golden.dense(path)
    config = found.stored.config
    halves = 2 if config.kv_heads % 2 == config.vocab_size % 2 == 0 else 1
    devices = jax.devices()[: 4 * halves]
    with mesh.use(mesh.make_mesh(mesh.MeshConfig(data=4, model=halves), devices)):
        params = found.stored.load()
        leaves, whole = trees.named_leaves(params), trees.named_leaves(found.params)
        for name, array in leaves.items():
            np.testing.assert_array_equal(array, whole[name], name)
        assert any(not x.sharding.is_fully_replicated for x in leaves.values())
        assert golden.padded_error(found, "left", params) < LOGITS
