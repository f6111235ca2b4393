"""Files of prompts and answers as items, and what is refused with file and line."""

import json
import subprocess
import sys

import pytest

from alignjax.data import records
from alignjax.feedback import content, imports, project
from tests.commands import cli
from tests.commands.test_run import call
from tests.feedback.conftest import rows

OWN = project.Project()
GOOD = {"prompt": "q", "answers": ["a", "b"]}


def write(file, given):
    file.write_text("".join(json.dumps(row) + "\n" for row in given))
    return str(file)


def test_rows_of_prompt_and_answers(tmp_path):
    path = write(tmp_path / "rows.jsonl", [
        {**GOOD, "language": "hi"},
        {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}],
         "answers": [{"answer": "a", "model": "m", "logprob": -3.5}, "[1, 2]"],
         "gold": {"choice": {"choice": "second", "strength": 3}}},
        {"prompt": "single", "answers": [{"text": "अच्छा\n"}]},
    ])  # fmt: skip
    one, two, three = imports.items(path, OWN, "en")
    assert one.language == "hi"
    assert one.candidates == (content.Candidate("a"), content.Candidate("b"))
    assert one.turns == (("human", "q"),)
    assert two.turns == (("system", "s"), ("human", "q"))
    assert two.candidates == (content.Candidate("a", "m", -3.5), content.Candidate("[1, 2]"))
    assert two.gold == {"choice": {"choice": "second", "chosen": 1, "strength": 3}}
    assert two.language == "en"
    assert three.candidates[0].text == "अच्छा\n"


@pytest.mark.parametrize("row", [
    {"prompt": "q", "chosen": "a", "rejected": "b"},
    {"instruction": "q", "completions": [{"response": "a", "score": 1},
                                         {"response": "b", "score": 2}]},
    {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
])  # fmt: skip
def test_rows_of_other_layouts_are_judged_again(row, tmp_path):
    (item,) = imports.items(write(tmp_path / "rows.jsonl", [row]), OWN)
    assert item.turns == (("human", "q"),)
    assert [candidate.text for candidate in item.candidates] == ["a", "b"]


@pytest.mark.parametrize(("row", "says"), [
    ({**GOOD, "answers": []}, "an item must have an answer; got none"),
    ({**GOOD, "answers": ["a", "a"]}, "answers must differ; got equal ones"),
    ({**GOOD, "answers": ["a", ""]}, r"answers\[1\] .* non-empty string"),
    ({**GOOD, "answers": ["a\0", "b"]}, r"answers\[0\] .* no NUL; got one at character 1"),
    ({**GOOD, "answers": ["\ud800", "b"]}, r"answers\[0\] .* lone surrogate at character 0"),
    ({**GOOD, "answers": ["x" * 900_000, "b"]}, "at most 100000 bytes; got 900000"),
    ({**GOOD, "answers": ["x" * 1_100_000]}, "row must have at most 1048576 bytes"),
    ({**GOOD, "prompt": "\ud800"}, "prompt must be valid Unicode"),
    ({**GOOD, "prompt": [{"role": "assistant", "content": "x"}]}, "before the assistant speaks"),
    ({**GOOD, "reply": "x"}, "reply must be one of prompt, answers"),
    ({**GOOD, "gold": {"choice": {"choice": "third"}}}, "choice must be one of first, second"),
    ({**GOOD, "gold": []}, "gold must be an object"),
    ({"prompt": "q"}, "answers must stand in the file; got rows of layout prompts"),
])  # fmt: skip
def test_what_cannot_be_judged_is_refused_by_file_and_line(row, says, tmp_path):
    path = write(tmp_path / "rows.jsonl", [GOOD, row] if "answers" in row else [row])
    with pytest.raises((content.Refusal, records.DataError), match=says) as caught:
        list(imports.items(path, OWN))
    assert f"line {2 if 'answers' in row else 1}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_prompts_are_of_any_layout_and_each_once(tmp_path):
    path = write(tmp_path / "p.jsonl", [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "a"}])
    assert [turns[-1].text for turns in imports.prompts(path)] == ["a", "b"]
    path = write(tmp_path / "t.jsonl", [{"text": "say it"}])
    assert imports.prompts(path) == [(("human", "say it"),)]


def test_sampled_answers_that_are_empty_or_equal_are_left_out():
    turns = [("human", "q")]
    given = [content.Candidate(text) for text in ("a", "b", "a", " ", "c\0")]
    item, count = imports.sampled(turns, given, "", None)
    assert [candidate.text for candidate in item.candidates] == ["a", "b"]
    assert count == 3
    assert imports.sampled(turns, given[2:], "", None) == (None, 2)
    assert imports.sampled(turns, given[:1], "", None)[0] is not None


def test_the_command_adds_items_once(tmp_path, capsys):
    path = write(tmp_path / "rows.jsonl", [{**GOOD, "prompt": f"q{i}"} for i in range(1203)])
    place = tmp_path / "f.db"
    options = (f"--database={place}", f"--answers={path}")
    assert "collected: 1203 new items of 1203" in call(capsys, "collect", *options)[1]
    assert (
        "collected: 0 new items of 7; 1203 in" in call(capsys, "collect", *options, "--count=7")[1]
    )
    assert rows(place, "select count(*) from candidate") == [(2406,)]


def test_the_command_refuses_in_one_line_and_stores_nothing(tmp_path, capsys):
    bad = write(tmp_path / "bad.jsonl", [GOOD, {**GOOD, "answers": []}])
    asked = tmp_path / "project.json"
    asked.write_text('{"raterz": 3}')
    place = tmp_path / "f.db"
    for options, says in (
        ((f"--answers={bad}",), "line 2"),
        ((f"--answers={bad}", f"--workdir={tmp_path}"), "must be given, and not both"),
        ((), "must be given, and not both"),
        (("--workdir=nowhere",), "must be folders of runs; got 'nowhere'"),
        ((f"--answers={bad}", f"--project={asked}"), "Did you mean 'raters'?"),
    ):
        code, _, error = call(capsys, "collect", f"--database={place}", *options)
        assert (code, len(error)) == (2, 1)
        assert says in error[0]
    assert rows(place, "select count(*) from item") == [(0,)]


@pytest.mark.parametrize(("text", "says"), [
    ("[]", "must be a JSON object"), ('{"overlap": 2}', "overlap .* <= 1; got 2"),
    ('{"ask": ["vote"]}', "must be one of choice, ranking"), ('{"raters": "two"}', "like 2; got"),
    ('{"scales": []}', "scales must be different names"), ('{"keys": {"tie": "b"}}', "different"),
    ('{"keys": {"tie": "1"}}', "no digits"), ('{"seed": true}', "like 0; got true"),
    ('{"ask": [1]}', r"like \[\]; got \[1\]"), ('{"lease_minutes": 0}', "lease_minutes .* > 0"),
])  # fmt: skip
def test_settings_that_make_no_sense_are_refused(text, says, tmp_path):
    file = tmp_path / "project.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=says) as caught:
        project.read(str(file))
    assert str(file) in str(caught.value)


def test_settings_are_read_from_a_file(tmp_path):
    file = tmp_path / "project.json"
    file.write_text(
        '{"guideline": "Prefer the truth.", "ask": ["ranking"], "raters": 3, "gold": 0}'
    )
    own = project.read(str(file))
    assert (own.guideline, own.ask, own.raters) == ("Prefer the truth.", ("ranking",), 3)
    assert project.parsed(own.as_json(), "x") == own
    assert project.read("") == project.Project()
    with pytest.raises(ValueError, match="must be a file of JSON"):
        project.read(str(tmp_path / "none.json"))


@pytest.mark.parametrize("command", ["collect", "annotate", "agreement", "harvest"])
def test_without_its_packages_a_command_says_what_to_install(command):
    """As on a core installation, which has none of them."""
    more = {"collect": ("--answers=y",), "harvest": ("--to=z",)}
    code = (
        "import builtins, importlib.util as util, sys\n"
        "absent = {'sqlalchemy', 'starlette', 'uvicorn'}\n"
        "real, find = builtins.__import__, util.find_spec\n"
        "def blocked(name, *rest, **named):\n"
        "    if name.split('.')[0] in absent: raise ModuleNotFoundError(name)\n"
        "    return real(name, *rest, **named)\n"
        "builtins.__import__ = blocked\n"
        "util.find_spec = lambda name, *rest: None if name in absent else find(name, *rest)\n"
        "from alignjax import main\n"
        f"sys.exit(main.main([{command!r}, '--database=x.db', *{more.get(command, ())}]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=cli.environment(), capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "got no sqlalchemy. Run pip install 'alignjax[feedback]'" in done.stderr
