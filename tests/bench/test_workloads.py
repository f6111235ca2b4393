"""The bench's workloads: shapes, rows, counted tokens, FLOPs, and sizes of the models."""

import json
import pathlib

import jax
import numpy as np
import pytest

from alignjax.models import transformer
from bench import flops, weights, workloads

ROOT = pathlib.Path(__file__).parents[2]
ONLINE = {"W5grpo": "grpo", "W5rloo": "rloo", "W5ppo": "ppo"}
FIELDS = ("layers", "width", "heads", "kv_heads", "head_dim", "ff", "vocab")
CASES = [workloads.Case(name, "M0") for name in workloads.WORKLOADS]


@pytest.fixture(scope="module")
def agreed():
    """The workloads that the project agreed on, where their file is beside a checkout."""
    for parent in ROOT.parents:
        file = parent / "shared" / "bench" / "workloads.json"
        if file.exists():
            return json.loads(file.read_text())
    pytest.skip("no shared/bench/workloads.json beside this checkout")


def test_models_and_optimizer_are_those_agreed_on(agreed):
    for name, model in workloads.MODELS.items():
        theirs = agreed["models"][name]
        named = [theirs["d" if field == "width" else field] for field in FIELDS]
        assert list(model) == named
        assert theirs["tied"]
        assert (theirs["rope_theta"], theirs["norm_eps"]) == (workloads.THETA, workloads.NORM_EPS)
    optimizer = agreed["optimizer"]
    names = {"lr": "learning_rate", "grad_clip_norm": "clip_norm"}
    for theirs in ("lr", "b1", "b2", "eps", "grad_clip_norm"):
        assert optimizer[theirs] == workloads.OPTIMIZER[names.get(theirs, theirs)]
    assert optimizer["weight_decay"] == 0
    assert optimizer["schedule"] == "constant"
    assert agreed["seed"] == workloads.SEED


def test_shapes_are_those_agreed_on(agreed):
    for name, theirs in agreed["workloads"].items():
        ours = workloads.WORKLOADS[name]
        assert ours.kind == ONLINE.get(name, theirs["kind"])
        assert ours.beta == theirs.get("beta", 0.0)
        assert ours.group == theirs.get("group", 1)
        if "lengths" in theirs:
            law = theirs["lengths"]
            assert ours.lengths == (law["median"], law["sigma"], law["min"])
        for model, shape in ours.shapes.items():
            size = theirs["shapes"][model]
            rows = size.get("batch") or size.get("pairs") or size["rows"]
            new = size.get("seq") or size.get("response") or size["new"]
            assert shape == (rows, size.get("prompt", 0), new)


@pytest.mark.parametrize("name", workloads.MODELS)
def test_parameters_are_those_of_the_model(name):
    model = workloads.MODELS[name]
    made = transformer.transformer(weights.config_of(model))
    tree = jax.eval_shape(made.init, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(tree)) == model.parameters


def test_rows_are_functions_of_the_step():
    case = workloads.Case("W1v", "M1")
    documents = case.documents(3)
    again = case.documents(3)
    assert all((a == b).all() for a, b in zip(documents, again, strict=True))
    assert not np.array_equal(case.documents(4)[0][:16], documents[0][:16])
    assert [len(ids) for ids in documents] == case.lengths(3).tolist()
    assert case.tokens(3) == sum(len(ids) for ids in documents)
    assert min(ids.min() for ids in documents) >= workloads.FIRST
    assert max(ids.max() for ids in documents) < case.model.vocab


def test_lengths_follow_their_law():
    case = workloads.Case("W1v", "M1")
    drawn = np.concatenate([case.lengths(step) for step in range(400)])
    assert drawn.min() >= 16
    assert drawn.max() == 512
    assert np.median(drawn) == pytest.approx(160, rel=0.05)
    inside = np.log(drawn[(drawn > 16) & (drawn < 512)])
    assert 0.5 < inside.std() < 0.7  # sigma 0.7, cut on both sides
    ragged = workloads.Case("W5ragged", "M1")
    assert (ragged.lengths(0) == ragged.lengths(1)).all()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_flops_are_those_of_every_product(case):
    """Products one by one, as a pass over one token after another does them."""
    model, (rows, prompt, new) = case.model, case.shape

    def token(seen: int, predicts: bool) -> int:
        width, inner, kv = model.width, model.heads * model.head_dim, model.kv_heads
        shapes = [(width, inner), (width, kv * model.head_dim), (width, kv * model.head_dim)]
        shapes += [(inner, width), (width, model.ff), (width, model.ff), (model.ff, width)]
        total = sum(2 * m * n for m, n in shapes) + 2 * model.heads * 2 * seen * model.head_dim
        return model.layers * total + predicts * 2 * width * model.vocab

    def row(length: int, start: int = 0, predicted=lambda t: False) -> int:
        return sum(token(t + 1, predicted(t)) for t in range(start, length))

    lengths, kind = case.lengths(0).tolist(), case.workload.kind
    if kind == "sft":
        wanted = 3 * sum(row(n, predicted=lambda t, n=n: t < n - 1) for n in lengths)
    elif kind == "dpo":
        wanted = 4 * 2 * rows * row(prompt + new, predicted=lambda t: t >= prompt)
    elif kind == "rm":
        wanted = 3 * 2 * rows * row(prompt + new)
    else:
        read = case.prompts * row(prompt)
        heads = sum(lengths) * 2 * model.width * model.vocab
        fed = sum(row(prompt + n - 1, start=prompt) for n in lengths)
        wanted = read + fed + heads
        if kind != "sample":
            wanted += 4 * (sum(row(prompt + n) for n in lengths) + heads)
        if kind == "ppo":
            wanted += 4 * sum(row(prompt + n) for n in lengths)
    assert flops.of_step(case, 0) == wanted


def test_an_unknown_name_is_one_line():
    with pytest.raises(ValueError, match=r"workload must be one of W1, .*; got 'W9'"):
        workloads.case("W9", "M1")
    with pytest.raises(ValueError, match=r"model must be one of M0, M1, M2; got 'M9'"):
        workloads.case("W1", "M9")
