"""`alignjax judge`: both orders, once an item, resumable; what can't be read is stored as that."""

import signal
import threading

import numpy as np
import pytest

from alignjax.feedback import database, verdicts
from alignjax.feedback.store import queries
from alignjax.models import transformer
from alignjax.models.checkpoints import folder as open_weights
from alignjax.rewards import option_judge
from alignjax.text.tokenizers import load
from tests.commands import cli, open_model
from tests.commands.test_open_weights import CONFIG
from tests.feedback import judges
from tests.feedback.conftest import Desk, item, rows

TEMPLATE = "{prompt} | {first} | {second}"


def judged(place):
    """{rater's name: {item's number: pairs}} of all verdicts."""
    found = {}
    with database.read_only(place) as read:
        raters = read(queries.raters)
        for own in read(lambda c: list(queries.judgements(c))):
            assert (own.kind, own.is_live) == ("verdict", True)
            assert raters[own.rater].kind == "judge"
            number = int(read(queries.item, own.item).turns[0][1].split()[1])
            named = found.setdefault(raters[own.rater].name, {})
            assert number not in named
            named[number] = list(verdicts.read(own.payload))
    return found


def test_every_pair_is_one_judgement_of_both_orders(desk_items, tmp_path, capsys):
    code, out, told = judges.run(
        capsys, desk_items, judges.rule(tmp_path, position=0.5), "--items=2"
    )
    assert code == 0, told
    assert "judged: 5 items; 0 left, 1 with one answer" in out
    assert "unread: 0 of 14 verdicts" in out
    assert told[-1].endswith("judged: 5 of 5 items; 0 of 14 verdicts could not be read")
    ((name, found),) = judged(desk_items).items()
    assert name.startswith("judge@")
    assert found[2] == [verdicts.Pair(0, 1, 1.5, 0.5)]  # even questions: a before b, by 1 nat
    assert found[1] == [verdicts.Pair(0, 1, -0.5, -1.5)]
    assert found[4] == [(0, 1, 1.5, 0.5), (0, 2, 2.5, 1.5), (1, 2, 1.5, 0.5)]
    assert found[1][0].logit == -1
    assert found[1][0].chance == pytest.approx(1 / (1 + np.e))


def test_what_is_judged_is_not_judged_again(desk_items, tmp_path, capsys):
    path = judges.rule(tmp_path)
    assert "judged: 2 items; 3 left" in judges.run(capsys, desk_items, path, "--count=2")[1]
    assert "judged: 3 items; 0 left" in judges.run(capsys, desk_items, path)[1]
    assert "judged: 0 items; 0 left" in judges.run(capsys, desk_items, path)[1]
    with database.opened(desk_items) as db:
        Desk(db).add(item(7))
    assert "judged: 1 items; 0 left" in judges.run(capsys, desk_items, path)[1]
    for number, fields in enumerate(({"position": 0.1}, {"function": "longest"}, {"name": "two"})):
        other = judges.rule(tmp_path, **fields)
        assert "judged: 6 items" in judges.run(capsys, desk_items, other)[1]
        assert len(judged(desk_items)) == number + 2
    (tmp_path / "own.py").write_text(judges.RULE + "\n# another rule\n")
    path = judges.described(tmp_path, kind="rule", path=f"{tmp_path}/own.py:letters")
    assert "judged: 6 items" in judges.run(capsys, desk_items, path)[1]


def test_a_judge_takes_no_raters_place(desk_items, tmp_path, capsys):
    with database.opened(desk_items) as db:
        desk = Desk(db)
        before = db.read(queries.progress, desk.rater("a"), desk.time).left
    judges.run(capsys, desk_items, judges.rule(tmp_path))
    with database.opened(desk_items) as db:
        desk = Desk(db)
        desk.time = 10.0**10
        rater = desk.rater("a")
        assert db.read(queries.progress, rater, desk.time).left == before == 6
        while (held := desk.next(rater)) is not None:
            kind = "score" if len(held.shown) == 1 else "choice"
            asked = {"choice": {"choice": "first"}, "score": {"scores": {"helpfulness": [1]}}}[kind]
            if len(held.shown) == 3:
                kind, asked = "ranking", {"ranks": [1, 2, 3]}
            desk.submit(held.id, rater, asked, kind=kind)
        assert db.read(queries.totals)["judgement"] == 5 + 6


def test_a_name_of_another_rater_is_refused(desk_items, tmp_path, capsys):
    path = judges.rule(tmp_path)
    out = judges.run(capsys, desk_items, path, "--count=1")[1]
    name = out.split()[1].rstrip(",")
    with database.opened(desk_items) as db:
        Desk(db).rater(name)  # the same name, now a person's
    code, _, told = judges.run(capsys, desk_items, path)
    assert (code, len(told)) == (2, 1)
    assert "a rater of kind person" in told[0]


def test_what_can_not_be_read_is_stored_and_no_tie(desk_items, tmp_path, capsys):
    path = judges.rule(tmp_path, "unsure", name="unsure")
    code, out, told = judges.run(capsys, desk_items, path)
    assert code == 1
    assert "unread: 6 of 14 verdicts" in out
    assert "unread verdicts must be at most 2.0%; got 6 of 14" in told[-1]
    (found,) = judged(desk_items).values()
    assert [number for number in found if np.isnan(found[number][0].logit)] == unread(found)
    assert len(unread(found)) == 3
    assert found[3][0].logit == 0  # that is a tie
    code, out, _ = judges.run(capsys, desk_items, path)  # again: nothing new, the same count
    assert (code, "judged: 0 items" in out) == (1, True)
    assert judges.run(capsys, desk_items, path, "--max_unparsed=0.5")[0] == 0
    stored = rows(desk_items, "select payload from judgement")
    assert sum('"logits": [null, null]' in text for (text,) in stored) == 3


def unread(found):
    return [n for n in found if all(np.isnan(x) for x in found[n][0][2:])]


def test_an_infinite_logit_is_refused_before_it_is_stored(desk_items, tmp_path, capsys):
    (tmp_path / "own.py").write_text(
        "def huge(texts, tasks):\n    return [float('inf') if ' a ' in t else 0. for t in texts]\n"
    )
    path = judges.described(tmp_path, kind="rule", path=f"{tmp_path}/own.py:huge")
    code, _, told = judges.run(capsys, desk_items, path)
    assert (code, len(told)) == (2, 1)
    assert "logits must be finite" in told[0]
    assert rows(desk_items, "select count(*) from judgement") == [(0,)]


# --- an address ---
def sides(text):
    """(question's number, the letters of the first and of the second answer) of a text asked."""
    prompt, first, second = text.split(" | ")
    return int(prompt.split()[1]), first.split()[1], second.split()[1]


def by_letter(text):
    """The first letter is better, and the first place a little."""
    number, first, second = sides(text)
    gap = (ord(second) - ord(first)) * (1 + number)
    return judges.completion("1", **{"1": -1.0, "2": -1.0 - gap - 0.5})


def remote(folder, address, **fields):
    own = {"kind": "remote", "address": address, "model": "m", "template": TEMPLATE, "retries": 0}
    return judges.described(folder, **{**own, **fields})


def test_a_remote_judge_is_asked_in_both_orders(desk_items, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OWN_JUDGE_KEY", "a very secret key")
    with judges.server(by_letter) as (address, seen):
        path = remote(tmp_path, address, key="OWN_JUDGE_KEY")
        code, out, told = judges.run(capsys, desk_items, path)
        assert code == 0, told
        again = remote(tmp_path, address, key="", retries=1, timeout_s=9.0)
        assert "judged: 0 items" in judges.run(capsys, desk_items, again)[1]  # the same judge
    ((_, found),) = judged(desk_items).items()
    assert found[3] == [verdicts.Pair(0, 1, 4.5, 3.5)]
    asked = [sides(body["messages"][0]["content"]) for _, body in seen]
    assert len(asked) == len(set(asked)) == 14
    assert {head["Authorization"] for head, _ in seen} == {"Bearer a very secret key"}
    stored = str(rows(desk_items, "select * from rater"))
    assert "a very secret key" not in stored + out + "".join(told)
    assert "OWN_JUDGE_KEY" in stored


def test_words_and_babble_and_refused_requests(desk_items, tmp_path, capsys):
    def answer(text):
        number, first, _ = sides(text)
        if number == 0:
            return judges.completion("Both are fine.")
        if number == 1:
            return 400  # such as a text that is too long
        return judges.completion("1" if first == "a" else "2")

    with judges.server(answer) as (address, _):
        path = remote(tmp_path, address)
        code, out, told = judges.run(capsys, desk_items, path)
    assert (code, "unread: 4 of 14" in out) == (1, True), told
    (found,) = judged(desk_items).values()
    assert unread(found) == [n for n in found if n < 2]
    assert found[2][0].logit > 5


@pytest.mark.parametrize("status", [401, 503])
def test_an_address_that_is_down_has_said_nothing(desk_items, tmp_path, capsys, status):
    up = threading.Event()

    def answer(text):
        return by_letter(text) if len(seen) <= 8 or up.is_set() else status

    with judges.server(answer) as (address, seen):
        path = remote(tmp_path, address)
        code, _, told = judges.run(capsys, desk_items, path, "--items=1")
        assert code == 2
        assert f"a judge's address must answer; got status {status}" in told[-1]
        before = rows(desk_items, "select id, payload from judgement order by id")
        assert len(before) == sum(line.startswith("judged: ") for line in told) >= 1
        up.set()
        code, out, _ = judges.run(capsys, desk_items, path, "--items=1")
        assert code == 0
        assert f"judged: {5 - len(before)} items; 0 left" in out
    after = rows(desk_items, "select id, payload from judgement order by id")
    assert after[: len(before)] == before
    assert not any(unread(found) for found in judged(desk_items).values())


def test_a_kill_loses_nothing_that_was_acknowledged(desk_items, tmp_path, capsys):
    go_on, waits = threading.Event(), threading.Event()

    def answer(text):
        if len(seen) > 8 and not go_on.is_set():
            waits.set()
            go_on.wait(60)
        return by_letter(text)

    with judges.server(answer) as (address, seen):
        path = remote(tmp_path, address)
        process = cli.start("judge", f"--database={desk_items}", f"--judge={path}", "--items=1")
        try:
            assert waits.wait(120)
            process.send_signal(signal.SIGKILL)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
            go_on.set()
        acknowledged = sum(line.startswith("judged: ") for line in err.splitlines())
        before = rows(desk_items, "select id, payload from judgement order by id")
        assert len(before) >= acknowledged >= 1
        done = {sides(body["messages"][0]["content"])[0] for _, body in seen[:-1]}
        seen.clear()
        code, out, told = judges.run(capsys, desk_items, path)
        assert code == 0, told
        assert f"judged: {5 - len(before)} items; 0 left" in out
        assert (
            rows(desk_items, "select id, payload from judgement order by id")[: len(before)]
            == before
        )
        again = {sides(body["messages"][0]["content"])[0] for _, body in seen}
        assert len(done & again) <= 1  # the one that it was at


# --- models of ours, and rubrics ---
@pytest.fixture(scope="module")
def model(tmp_path_factory):
    pytest.importorskip("tokenizers", reason="open weights need alignjax[hf]")
    return open_model.write(tmp_path_factory.mktemp("judge") / "model")


def local(folder, model, **fields):
    own = {"kind": "local", "model": str(model), "template": TEMPLATE, "length": 96, "rows": 2}
    return judges.described(folder, **{**own, **fields})


def test_open_weights_judge_by_their_own_logits(desk_items, model, tmp_path, capsys):
    code, _, told = judges.run(capsys, desk_items, local(tmp_path, model, options=["yes", "no"]))
    assert code == 0, told
    stored = open_weights.open_model(model)
    own = option_judge.local(
        transformer.transformer(stored.config), stored.load(), load.load_tokenizer(model),
        pair_template=TEMPLATE, options=("yes", "no"), rows=2, length=96,
    )  # fmt: skip
    want = own.pair(["question 3"], ["answer a to 3"], ["answer b to 3"])
    (found,) = judged(desk_items).values()
    np.testing.assert_allclose(found[3][0][2:], [want.a_first[0], want.b_first[0]], atol=1e-4)
    assert abs(found[3][0].one_first) > 1e-3
    moved = tmp_path / "elsewhere"
    moved.symlink_to(model)
    assert "judged: 0 items" in judges.run(
        capsys, desk_items, local(tmp_path, moved, options=["yes", "no"], rows=3)
    )[1]  # fmt: skip


@pytest.mark.slow
def test_a_run_judges_as_its_weights_do(desk_items, model, tmp_path, capsys):
    data = open_model.write_questions(tmp_path / "sums")
    config = tmp_path / "sft.py"
    config.write_text(CONFIG.format(model=str(model), data=str(data), adapter="adapt.FullConfig()"))
    cli.run("import", f"--config={config}", f"--workdir={tmp_path}/run")
    judges.run(capsys, desk_items, local(tmp_path, model, name="weights"))
    code, _, told = judges.run(
        capsys, desk_items, local(tmp_path, "", workdir=f"{tmp_path}/run", name="run")
    )
    assert code == 0, told
    one, two = judged(desk_items).values()
    for number, pairs in one.items():
        np.testing.assert_allclose(pairs, two[number], atol=1e-4)
    asks = {"kind": "local", "workdir": f"{tmp_path}/run", "length": 96, "rows": 3}
    rubric = judges.described(tmp_path, kind="rubric", items={"short?": 1}, asks=asks, name="ask",
                              template="{prompt} {answer} {question}")  # fmt: skip
    code, _, told = judges.run(capsys, desk_items, rubric)
    assert code == 0, told
    pair = judged(desk_items)[next(n for n in judged(desk_items) if n.startswith("ask@"))][3][0]
    assert pair.one_first == pytest.approx(pair.two_first, abs=1e-5)  # a rubric sees no order
    assert abs(pair.logit) > 1e-4


def test_a_prompt_that_is_too_long_is_unread(desk_items, model, tmp_path, capsys):
    code, out, _ = judges.run(capsys, desk_items, local(tmp_path, model, length=6))
    assert (code, "unread: 14 of 14" in out) == (1, True)


def test_a_rubric_asks_each_question_of_each_answer(desk_items, tmp_path, capsys):
    def answer(text):
        gap = {"right": 1.0, "kind": 4.0}[text.split(" ? ")[1]] * (ord(text.split()[3]) - 97)
        return judges.completion("yes", yes=-1.0, no=-1.0 + gap)

    with judges.server(answer) as (address, seen):
        asks = {"kind": "remote", "address": address, "model": "m"}
        path = judges.described(
            tmp_path, kind="rubric", items={"right": 2, "kind": 1}, asks=asks,
            template="{prompt} {answer} ? {question}",
        )  # fmt: skip
        code, _, told = judges.run(capsys, desk_items, path)
        assert code == 0, told
    (found,) = judged(desk_items).values()
    assert found[0][0] == pytest.approx((0, 1, 2.0, 2.0))  # (2 * 1 + 1 * 4) / 3 for a over b
    assert len(seen) == 2 * (4 * 2 + 3)  # each answer once a question, though it is in two orders


def test_conversations_are_told_with_their_speakers():
    assert verdicts.asked((("human", "q"),)) == "q"
    turns = (("system", "s"), ("human", "q"), ("assistant", "a"), ("human", "b"))
    assert verdicts.asked(turns) == "System: s\n\nHuman: q\n\nAssistant: a\n\nHuman: b"
