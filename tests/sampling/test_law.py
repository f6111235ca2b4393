"""What comes through slots has the law of the model: every completion as often as it is likely."""

import itertools

import jax
import numpy as np
import pytest
from scipy import stats

from alignjax.sampling import generate, transforms
from tests.models import tiny
from tests.reference import transformer as reference

VOCAB, EOS, NEW = 5, 2, 4
CONFIG = tiny.config(vocab_size=VOCAB)
PROMPTS = ([1, 3], [4], [0, 0, 1])


def law(weights, prompt):
    """{completion: probability} of every completion, those that the limit cuts included."""
    found, going = {}, {(): 1.0}
    for step in range(NEW):
        after = {}
        for begun, share in going.items():
            logits = reference.logits(weights, [*prompt, *begun], CONFIG)[-1]
            for token, chance in enumerate(reference.distribution(logits)):
                whole = (*begun, token)
                kept = found if token == EOS or step == NEW - 1 else after
                kept[whole] = share * chance
        going = after
    assert len(found) == sum((VOCAB - 1) ** n for n in range(NEW)) + (VOCAB - 1) ** NEW
    assert sum(found.values()) == pytest.approx(1.0)
    return found


def pvalue(seen, wanted, total):
    """Of a chi-square test; outcomes expected fewer than 5 times are one."""
    expected = np.array([wanted[name] * total for name in wanted])
    counts = np.array([seen.get(name, 0) for name in wanted], float)
    common = expected >= 5
    parts = [np.append(x[common], x[~common].sum()) for x in (counts, expected)]
    counts, expected = (x[parts[1] > 0] for x in parts)
    assert len(counts) > 3
    return stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue


@pytest.mark.parametrize(
    ("draws", "options"),
    [
        (6_000, {"slots": 64, "rungs": 2, "chunk": 2}),
        pytest.param(40_000, {"slots": 128, "rungs": 3, "chunk": 1}, marks=pytest.mark.slow),
        pytest.param(40_000, {"slots": 40, "chunk": 3}, marks=pytest.mark.slow),
        pytest.param(40_000, {"rungs": 4, "chunk": 1}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_completions_and_lengths_are_as_frequent_as_they_are_likely(draws, options):
    weights = tiny.params(seed=3, vocab_size=VOCAB)
    model = tiny.model(vocab_size=VOCAB)
    config = transforms.SamplingConfig(max_new_tokens=NEW, **options)
    run = generate.make_generate(model, config, eos=EOS, pad=0)
    prompts = list(itertools.islice(itertools.cycle(PROMPTS), draws))
    tokens, _, _ = tiny.rows(prompts, 3)
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    found = jax.device_get(run(weights, tokens, lengths, jax.random.key(1)))
    for number, prompt in enumerate(PROMPTS):
        wanted = law(weights, prompt)
        seen: dict[tuple, int] = {}
        logprobs = {}
        for row in range(number, draws, len(PROMPTS)):
            begin, end = lengths[row], found.lengths[row]
            drawn = tuple(found.tokens[row, begin:end].tolist())
            seen[drawn] = seen.get(drawn, 0) + 1
            logprobs[drawn] = found.logprobs[row, begin:end].sum()
        assert set(seen) <= set(wanted)
        for drawn, logprob in logprobs.items():
            assert logprob == pytest.approx(np.log(wanted[drawn]), abs=5e-5)
        total = sum(seen.values())
        assert pvalue(seen, wanted, total) > 1e-3
        by_length = [
            {n: sum(x for k, x in table.items() if len(k) == n) for n in range(1, NEW + 1)}
            for table in (seen, wanted)
        ]
        assert pvalue(*by_length, total) > 1e-3
