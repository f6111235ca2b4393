"""A judge over HTTP: a server on the loopback that fails, waits, babbles and answers."""

import http.server
import json
import threading

import numpy as np
import pytest

from alignjax.rewards import combine, judge, judged, remote_judge

TEMPLATE = "{prompt}: {first} or {second}?"


def said(text, **chances):
    choice = {"message": {"content": text}}
    if chances:
        listed = [{"token": token, "logprob": value} for token, value in chances.items()]
        choice["logprobs"] = {"content": [{"top_logprobs": listed}]}
    return {"choices": [choice]}


@pytest.fixture
def server():
    """(address, what to answer in turn: a body, a text, or a status; requests that came)."""
    answers, seen = [], []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, dict(self.headers), body))
            answer = answers.pop(0)
            status = answer if isinstance(answer, int) else 200
            data = answer if isinstance(answer, str) else json.dumps(answer)
            self.send_response(status)
            if status == 429:
                self.send_header("Retry-After", "7")
            self.end_headers()
            self.wfile.write(data.encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as own:
        thread = threading.Thread(target=own.serve_forever)
        thread.start()
        yield "http:" + f"//127.0.0.1:{own.server_port}/v1", answers, seen
        own.shutdown()
        thread.join()


def test_a_pair_is_asked_in_both_orders(server):
    address, answers, seen = server
    answers += [said("1", **{"1": -0.1, "2": -2.4}), said("1", **{"1": -0.2, "2": -1.9})]
    post = remote_judge.poster(address, token="secret")
    found = remote_judge.remote(post, "m", template=TEMPLATE).pair(["p"], ["x"], ["y"])
    np.testing.assert_allclose([found.a_first[0], found.b_first[0]], [2.3, -1.7])
    texts = [body["messages"][0]["content"] for _, _, body in seen]
    assert texts == ["p: x or y?", "p: y or x?"]
    path, headers, body = seen[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert (body["model"], body["temperature"], body["seed"]) == ("m", 0, 0)


def test_refusals_that_may_pass_are_tried_again(server):
    address, answers, seen = server
    waits = []
    answers += [503, 429, said("1.")]
    post = remote_judge.poster(address, retries=3, wait_s=0.5, sleep=waits.append)
    assert remote_judge.verdict(post({}), ("1", "2")) == remote_judge.SURE
    assert waits == [0.5, 7.0]
    answers += [400]
    with pytest.raises(remote_judge.Unanswered, match="status 400"):
        post({})
    assert len(seen) == 4


def test_what_is_not_answered_or_not_read_is_nan_and_counted(server):
    address, answers, _ = server
    sleeps = []
    post = remote_judge.poster(address, retries=1, sleep=sleeps.append)
    own = remote_judge.remote(post, "m", template=TEMPLATE)
    answers += [said("Both are fine."), 500, 500, "no json", said("2")]
    found = own.pair(["p", "q"], ["x", "x"], ["y", "y"])
    assert np.isnan(found.a_first).all()
    assert found.unread == 3
    np.testing.assert_array_equal(found.b_first[1:], [np.nan])
    assert np.isnan(found.logits).all()


def test_nobody_there_is_unanswered():
    post = remote_judge.poster("http:" + "//127.0.0.1:9", retries=0, timeout_s=2)
    with pytest.raises(remote_judge.Unanswered):
        post({})


def test_the_same_question_is_asked_once(server):
    address, answers, seen = server
    cache = {}
    own = remote_judge.remote(remote_judge.poster(address), "m", template=TEMPLATE, cache=cache)
    answers += [said("1"), said("2")]
    one, two = (own.pair(["p"], ["x"], ["y"]) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert len(seen) == 2
    assert all(len(key) == 64 for key in cache)


@pytest.mark.parametrize(
    ("answer", "want"),
    [
        (said("1"), remote_judge.SURE),
        (said(" 2. "), -remote_judge.SURE),
        (said("12"), np.nan),
        (said("Answer 1"), np.nan),
        (said(None), np.nan),
        (said("1", **{"1": -0.5}), remote_judge.SURE),
        (said("2", **{"1": -0.7, " 1": -0.7, "2": -1.0}), np.log(2) - 0.7 + 1.0),
        ({"choices": []}, np.nan),
        ({"error": "no"}, np.nan),
        (None, np.nan),
    ],
)
def test_verdicts(answer, want):
    np.testing.assert_allclose(remote_judge.verdict(answer, ("1", "2")), want)


def test_scores_are_distributions_over_levels(server):
    address, answers, seen = server
    own = remote_judge.remote(
        remote_judge.poster(address), "m", template=TEMPLATE, score_template="{prompt}: {answer}"
    )
    answers += [said("4", **{"4": np.log(0.6), "5": np.log(0.2)}), said("2"), said("good")]
    got = own.score(["p"] * 3, ["x", "y", "z"])
    np.testing.assert_allclose(got[0], [0, 0, 0, 0.75, 0.25])
    np.testing.assert_array_equal(got[1], [0, 1, 0, 0, 0])
    assert np.isnan(got[2]).all()
    np.testing.assert_allclose(judge.expected_scores(got), [4.25, 2, np.nan])
    assert seen[0][2]["messages"][0]["content"] == "p: x"
    assert remote_judge.remote(lambda body: {}, "m", template=TEMPLATE).score is None


def test_a_judge_as_a_rule(server, tmp_path):
    """Scores from 0 to 1; what can't be read, or nobody answers, is NaN and no failure."""
    address, answers, seen = server
    (tmp_path / "token").write_text("secret\n")
    rule = judged.Judged(
        address=address, model="m", retries=0, token_file=str(tmp_path / "token"),
        template="{prompt}: {answer}",
    )  # fmt: skip
    answers += [said("5"), said("2"), said("good"), 500]
    score = combine.combined({"judge": rule})
    tasks = [{"prompt": "p"}] * 4
    got = score(["a", "b", "c", "d"], tasks)
    np.testing.assert_allclose(got.reward, [1, 0.25, np.nan, np.nan])
    assert not got.failed.any()
    assert [row[2]["messages"][0]["content"] for row in seen] == ["p: a", "p: b", "p: c", "p: d"]
    assert seen[0][1]["Authorization"] == "Bearer secret"
    answers += [said("3")]
    again = score(["a", "d"], tasks[:2])  # the unanswered one is asked again, the other is known
    np.testing.assert_allclose(again.reward, [1, 0.5])
    assert score([], []).reward.shape == (0,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"address": "ftp:x"}, "must begin with http"),
        ({"template": "{answer}"}, "Judged.template must hold answer, prompt"),
        ({"levels": ("1",)}, "Judged.levels must be two"),
        ({"token_file": "nowhere"}, "Judged.token_file must be a file"),
        ({"timeout_s": 0.0}, "Judged.timeout_s must be"),
    ],
)
def test_bad_options_of_the_rule_are_refused(changes, message):
    rule = judged.Judged(**{"address": "http:x", "model": "m", **changes})
    with pytest.raises(ValueError, match=message):
        rule.validate()


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="must begin with http"):
        remote_judge.poster("file:" + "///etc")
    with pytest.raises(ValueError, match="two different texts"):
        remote_judge.remote(lambda body: {}, "m", template=TEMPLATE, options=("1", "1"))
