"""The sampled distribution, against its definition in plain Python."""

import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.sampling import transforms
from tests.reference import transformer as reference

LOGITS = np.random.default_rng(0).normal(size=(6, 12)).astype(np.float32) * 2


def sampled_distribution(**options):
    config = transforms.SamplingConfig(**options)
    config.validate()
    z = np.asarray(transforms.final_logits(jnp.asarray(LOGITS), config), np.float64)
    return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 3.0},
        {"top_k": 1},
        {"top_k": 4},
        {"top_k": 99},
        {"top_p": 0.3},
        {"top_p": 0.9},
        {"top_p": 1e-9},  # the most likely token always stays
        {"temperature": 1.7, "top_k": 5, "top_p": 0.8},
        {"temperature": 0.0, "top_k": 3},
    ],
    ids=str,
)
def test_final_logits_follow_the_definition(options):
    want = np.stack([reference.distribution(row, **options) for row in LOGITS])
    got = sampled_distribution(**options)
    np.testing.assert_array_equal(got > 0, want > 0)
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert (got[np.arange(6), LOGITS.argmax(-1)] > 0).all()


OPTIONS = [
    {},
    {"temperature": 0.5},
    {"top_k": 4, "temperature": 1.3},
    {"top_p": 0.6},
    {"temperature": 0.0, "top_k": 3},
    {"temperature": 1.7, "top_k": 5, "top_p": 0.8},
    {"top_k": 99, "top_p": 1e-9},
]


@pytest.mark.parametrize("names", [("temperature", "top_k", "top_p"), ("top_k",)], ids=str)
@pytest.mark.parametrize("number", range(7))
def test_options_of_rows_are_those_of_configurations(number, names):
    """A row's own options give what the configuration of the same options gives, bit for bit."""
    logits, rows = jnp.asarray(np.tile(LOGITS[:1], (7, 1))), OPTIONS
    if len(names) == 1:
        rows = [{**OPTIONS[number], **{n: row.get(n, 0) for n in names}} for row in OPTIONS]
    own = {n: [getattr(transforms.SamplingConfig(**row), n) for row in rows] for n in names}
    rest = {n: x for n, x in OPTIONS[number].items() if n not in names}
    options = transforms.RowOptions(**{n: jnp.asarray(x) for n, x in own.items()})
    found = transforms.final_logits(logits, transforms.SamplingConfig(**rest), options)
    for row, wanted in zip(found, rows, strict=True):
        alone = transforms.final_logits(logits[:1], transforms.SamplingConfig(**wanted))
        np.testing.assert_array_equal(row, alone[0])


def test_greedy_takes_the_first_of_equals():
    z = jnp.array([[1.0, 3.0, 3.0, 0.0]])
    got = transforms.final_logits(z, transforms.SamplingConfig(temperature=0.0))
    np.testing.assert_array_equal(got, [[-np.inf, 0, -np.inf, -np.inf]])


def test_what_counts_as_truncated():
    config = transforms.SamplingConfig
    assert not config(temperature=0.7).is_truncated
    assert all(c.is_truncated for c in (config(temperature=0), config(top_k=1), config(top_p=0.9)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "sampling.temperature must be finite and >= 0"),
        ({"top_p": 0.0}, "sampling.top_p must be finite and > 0 and <= 1; got 0.0"),
        ({"top_p": 1.1}, "sampling.top_p must"),
        ({"top_k": -1}, "sampling.top_k must be finite and >= 0"),
        ({"max_new_tokens": 0}, "sampling.max_new_tokens must be finite and >= 1"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        transforms.SamplingConfig(**options).validate()
