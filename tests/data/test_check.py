import json

import pytest

from alignjax.data import check, sources


@pytest.fixture
def path(tmp_path):
    rows = [
        {"chosen": f"\n\nHuman: q{i // 2}\n\nAssistant: {'a ' * (i + 20)}z", "rejected": ""}
        for i in range(4)
    ]
    for row in rows:
        row["rejected"] = row["chosen"] + " no"
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return file


def test_report_without_tokenizer(path):
    lines = check.check_data(path).lines
    text = "\n".join(lines)
    assert "4 rows of 4 read" in text
    assert "0 rows, 2 repeated prompts" in text
    assert "estimated" in text
    assert "p50" in text
    assert "truncated share 0.0000" in text
    assert "a a" not in text
    short = check.check_data(path, length=8, prompt_length=4).lines
    assert "truncated share 1.0000" in short[-1]


def test_report_in_tokens(path, tok):
    lines = check.check_data(path, speaker=tok, length=128, prompt_length=32).lines
    assert "lengths in tokens:" in lines
    assert "kept 4" in lines[-1]
    assert "truncated share 0.0000" in lines[-1]
    # bos human q 0 assistant
    assert any(line.startswith("  prompt: p0 5,") for line in lines)


def test_report_refuses_what_training_refuses(path):
    path.write_text(path.read_text() + "\n{")
    with pytest.raises(sources.DataError, match="line 5"):
        check.check_data(path)
    assert "1 invalid JSON" in "\n".join(
        check.check_data(path, on_bad_row="skip", max_bad_share=0.3).lines
    )


def test_rows_of_evaluation_among_those_of_training_are_counted(tmp_path):
    def text(number, answer):
        return f"\n\nHuman: Is it {number}?\n\nAssistant: {answer}"

    def put(name, pairs):
        rows = [{"chosen": text(n, good), "rejected": text(n, bad)} for n, good, bad in pairs]
        (tmp_path / name).write_text("\n".join(json.dumps(row) for row in rows))

    put("train.jsonl", [(n, "Yes.", "No.") for n in range(20)])
    put("test.jsonl", [(3, "Yes.", "No."), (4, "Of course.", "Never."), (30, "Yes.", "No.")])
    lines = check.check_data(tmp_path).lines
    assert "leaked: 1 of 3 rows for evaluation stand in training" in lines
    assert "leaked: 2 of 3 prompts for evaluation stand in training" in lines
    (tmp_path / "test.jsonl").unlink()
    assert not [line for line in check.check_data(tmp_path).lines if "leaked" in line]
