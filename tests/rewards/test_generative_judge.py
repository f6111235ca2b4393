"""A judge that writes: strict verdicts, both orders, and NaN for whatever is none."""

import numpy as np
import pytest

from alignjax.rewards import generative_judge, remote_judge

SURE = remote_judge.SURE


@pytest.mark.parametrize(
    ("text", "logit"),
    [
        ("Answer 1 is short.\nVerdict: 1", SURE),
        ("Both fine.\n**Verdict: 2**", -SURE),
        ("verdict: [[2]].", -SURE),
        ("Verdict: 2\nNo, on reflection:\nVerdict: 1", SURE),
        ("Verdict: Tie.", 0.0),
        ("Answer 1 is better.", np.nan),
        ("Verdict: 1 or 2", np.nan),
        ("Verdict: answer 1", np.nan),
        ("Verdict:", np.nan),
        ("Verdict: 12", np.nan),
        ("Verdict: 1\nor maybe Verdict: hm", np.nan),
        ("", np.nan),
    ],
)
def test_only_a_verdict_is_a_verdict(text, logit):
    np.testing.assert_equal(generative_judge.verdict(text, ("1", "2"), "tie"), logit)


def test_each_pair_is_written_about_in_both_orders_and_what_is_unread_is_counted():
    asked = []

    def write(requests):
        asked.extend(requests)
        # Likes "good"; says nothing of prompt 2 where "good" stands first.
        texts = []
        for text in requests:
            first = text.index("good") < text.index("bad")
            mute = "q2" in text and first
            texts.append("hm" if mute else f"One is good.\nVerdict: {1 if first else 2}")
        return texts

    own = generative_judge.generative(write, template="{prompt}: {first} / {second}")
    found = own.pair(["q1", "q2"], ["good", "good"], ["bad", "bad"])
    assert asked == ["q1: good / bad", "q2: good / bad", "q1: bad / good", "q2: bad / good"]
    np.testing.assert_array_equal(found.logits, [SURE, np.nan])
    assert found.unread == 1
