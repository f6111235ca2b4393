"""What `alignjax judge` refuses, each in one line, before anything is asked or stored."""

import json

import pytest

from alignjax.feedback import content, database, project
from tests.commands.test_run import call
from tests.feedback import judges
from tests.feedback.conftest import Desk, rows

ADDRESS = "http:" + "//127.0.0.1:1/v1"
REMOTE = {"kind": "remote", "address": ADDRESS, "model": "m"}
BAD = (
    ({"kind": "oracle"}, "kind (", "local, remote, rubric, generative, constitution, facts, rule"),
    ({}, "kind (", "local, remote, rubric, generative, constitution, facts, rule"),
    ([1], "a judge must be a JSON object", ""),
    ({**REMOTE, "adress": "x"}, "a setting (", "Did you mean 'address'?"),
    ({**REMOTE, "address": "ftp:x"}, "address must begin with http: or https:", ""),
    ({**REMOTE, "address": ADDRESS.replace("127", "me:pw@127")}, "no user and password", ""),
    ({**REMOTE, "model": ""}, "model must be a name", ""),
    ({**REMOTE, "key": "NO_SUCH_VARIABLE"}, "environment variable that is set", "NO_SUCH_VAR"),
    ({**REMOTE, "timeout_s": 0}, "timeout_s", "must be"),
    ({**REMOTE, "retries": "3"}, "retries must be like 3", ""),
    ({**REMOTE, "retries": True}, "retries must be like 3", ""),
    ({**REMOTE, "options": ["1", "1"]}, "options must be two different texts", ""),
    ({**REMOTE, "options": ["1"]}, "options must be two different texts", ""),
    ({**REMOTE, "template": "{prompt} {first}"}, "template must hold prompt, first, second", ""),
    ({**REMOTE, "template": "{prompt} {first} {second} {"}, "template must hold", "braces"),
    ({**REMOTE, "template": "{prompt.x} {first} {second}"}, "template must hold", ""),
    ({**REMOTE, "name": " "}, "name must be 1 to 100", ""),
    ({"kind": "local"}, "workdir or model must be given", ""),
    ({"kind": "local", "workdir": "x", "model": "y"}, "workdir or model must be given", ""),
    ({"kind": "local", "workdir": "nowhere"}, "workdir must be the folder of a run", ""),
    ({"kind": "local", "model": "nowhere"}, "model must be there", ""),
    ({"kind": "local", "model": ".", "length": 1}, "length", "must be"),
    ({"kind": "local", "model": ".", "best": True}, "best must come with workdir", ""),
    ({"kind": "rubric", "asks": REMOTE}, "items must have a question", ""),
    ({"kind": "rubric", "items": {"q": 0}, "asks": REMOTE}, "the weight of 'q'", ""),
    ({"kind": "rubric", "items": {"q": 1}}, "kind (asks of ", ""),
    ({"kind": "rubric", "items": {"q": 1}, "asks": {"kind": "rule", "path": "x"}},
     "kind (asks of ", "one of local, remote"),
    ({"kind": "rubric", "items": {"q": 1}, "asks": {**REMOTE, "options": ["a", "b"]}},
     "leave options to the judge", ""),
    ({"kind": "generative"}, "kind (asks of ", ""),
    ({"kind": "generative", "asks": REMOTE, "template": "{prompt}"}, "template must hold", ""),
    ({"kind": "generative", "asks": REMOTE, "tie": "1"}, "marker and tie must be", ""),
    ({"kind": "generative", "asks": REMOTE, "max_new_tokens": 0}, "max_new_tokens", "must be"),
    ({"kind": "generative", "asks": {**REMOTE, "template": "x"}}, "leave template", ""),
    ({"kind": "constitution", "asks": REMOTE}, "a constitution must be a file", ""),
    ({"kind": "facts", "asks": REMOTE}, "documents must be a file of text", ""),
    ({"kind": "facts", "asks": REMOTE, "passages": 0}, "passages", "must be"),
    ({"kind": "facts", "asks": REMOTE, "penalty": -1.0}, "penalty", "must be"),
    ({"kind": "rule", "path": "nowhere.py:f"}, "must name a file", ""),
    ({"kind": "rule", "path": "nowhere"}, "must be FILE.py:name", ""),
)  # fmt: skip


@pytest.mark.parametrize(("fields", "message", "more"), BAD)
def test_a_bad_judge_is_refused_in_one_line(desk_items, tmp_path, capsys, fields, message, more):
    path = tmp_path / "judge.json"
    path.write_text(json.dumps(fields))
    code, out, told = judges.run(capsys, desk_items, path)
    assert (code, out, len(told)) == (2, "", 1)
    assert message in told[0]
    assert more in told[0]
    assert rows(desk_items, "select count(*) from rater") == [(0,)]


def test_other_bad_input_is_refused_in_one_line(desk_items, tmp_path, capsys):
    path = judges.rule(tmp_path)
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    for options, message in (
        (
            (f"--judge={broken}", f"--database={desk_items}"),
            "--judge must be a file of JSON; got another",
        ),
        ((f"--judge={tmp_path}/no.json", f"--database={desk_items}"), "No such file"),
        ((f"--database={desk_items}",), "--judge must be a file of JSON; got ''"),
        ((f"--judge={path}",), "--database must name a file"),
        ((f"--judge={path}", f"--database={tmp_path}/no.db"), "--database must be there"),
        (
            (f"--judge={path}", f"--database={desk_items}", "--max_unparsed=2"),
            "--max_unparsed must be",
        ),
        ((f"--judge={path}", f"--database={desk_items}", "--items=0"), "--items must be"),
        ((f"--judge={path}", f"--database={desk_items}", "--count=-1"), "--count must be"),
    ):
        code, _, told = call(capsys, "judge", *options)
        assert (code, len(told)) == (2, 1), told
        assert message in told[0]
    with database.opened(desk_items):
        code, _, told = judges.run(capsys, desk_items, path)
    assert (code, "must have one writer" in told[0]) == (2, True)


def test_a_verdict_is_no_submission_of_the_page(desk_items):
    with database.opened(desk_items) as db:
        desk = Desk(db)
        rater = desk.rater("a")
        held = desk.next(rater)
        with pytest.raises(content.Refusal, match="kind must be one of choice"):
            desk.submit(held.id, rater, {"pairs": []}, kind="verdict")
    with pytest.raises(ValueError, match="a kind of judgement"):
        project.Project(also=("verdict",)).validate()
