"""`alignjax revise`: answers, critiques and revisions of a model, as rows that SFT reads."""

import json

import pytest

from alignjax.feedback import imports
from tests.commands import open_model
from tests.commands.test_run import call

CONSTITUTION = "experiments/constitutions/assistant.txt"
BAD = (
    ((), "workdir or model must be given"),
    (("--model=nowhere",), "model must be there"),
    (("--model=DIR", "--out="), "--out must name a folder"),
    (("--model=DIR", "--constitution=nowhere"), "a constitution must be a file of text"),
    (("--model=DIR", "--rounds=4"), "principles of an answer must be"),
    (("--model=DIR", "--rounds=0"), "principles of an answer must be"),
    (("--model=DIR", "--temperature=-1"), "--temperature must be"),
    (("--model=DIR", "--prompts=nowhere"), "nowhere"),
    (("--model=DIR", "--out=FULL"), "must hold no demonstrations.jsonl"),
)


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_input_is_refused_in_one_line(tmp_path, capsys, options, message):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "q"}\n')
    full = tmp_path / "full"
    full.mkdir()
    (full / "demonstrations.jsonl").touch()
    given = {
        "prompts": f"{tmp_path}/prompts.jsonl", "constitution": CONSTITUTION,
        "out": f"{tmp_path}/out",
    }  # fmt: skip
    for option in options:
        name, value = option.removeprefix("--").split("=", 1)
        given[name] = value.replace("DIR", str(tmp_path)).replace("FULL", str(full))
    words = [f"--{name}={value}" for name, value in given.items()]
    code, out, told = call(capsys, "revise", *words)
    assert (code, out, len(told)) == (2, "", 1)
    assert message in told[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_model_rewrites_its_answers(tmp_path, capsys):
    pytest.importorskip("tokenizers", reason="open weights need alignjax[hf]")
    model = open_model.write(tmp_path / "model")
    lines = [json.dumps({"prompt": f"what is {n} and {n}?"}) for n in range(3)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    words = (
        f"--model={model}", f"--prompts={tmp_path}/prompts.jsonl", f"--constitution={CONSTITUTION}",
        "--rounds=2", "--max_new_tokens=8", "--rows=4", "--length=1024",
    )  # fmt: skip
    code, out, told = call(capsys, "revise", *words, f"--out={tmp_path}/one")
    assert code == 0, told
    assert "of 3 answers" in out
    rows = [json.loads(x) for x in (tmp_path / "one/demonstrations.jsonl").read_text().splitlines()]
    steps = [json.loads(x) for x in (tmp_path / "one/steps.jsonl").read_text().splitlines()]
    assert len(steps) == 3
    assert all(len(own["steps"]) == 2 for own in steps)
    assert all(own["steps"][0]["principle"] != own["steps"][1]["principle"] for own in steps)
    last = {own["prompt"]: own["steps"][-1]["answer"] for own in steps}
    assert rows
    for row in rows:
        question, answer = row["messages"]
        assert (question["role"], answer["role"]) == ("user", "assistant")
        assert answer["content"] == last[question["content"]]
    # Read back by the loader, and the same again for the same seed.
    assert len(imports.prompts(f"{tmp_path}/one/demonstrations.jsonl")) == len(rows)
    call(capsys, "revise", *words, f"--out={tmp_path}/two")
    assert (tmp_path / "two/steps.jsonl").read_bytes() == (
        tmp_path / "one/steps.jsonl"
    ).read_bytes()
