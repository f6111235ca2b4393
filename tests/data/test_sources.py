import gzip
import json
import os
import subprocess
import sys

import pytest

from alignjax.data import sources
from alignjax.data.containers import lines


def transcript(prompt: str, answer: str) -> str:
    return f"\n\nHuman: {prompt}\n\nAssistant: {answer}"


def good(index: int) -> dict:
    return {
        "chosen": transcript(f"question {index}", f"good answer {index}"),
        "rejected": transcript(f"question {index}", "bad answer"),
    }


def line(index: int) -> bytes:
    return json.dumps(good(index)).encode() + b"\n"


@pytest.fixture
def write(tmp_path):
    """Returns a writer of a file of 3 good rows with `bad` as line 2; gives its path."""

    def make(bad: bytes, name: str = "rows.jsonl"):
        path = tmp_path / name
        path.write_bytes(line(0) + bad + b"\n" + line(1) + line(2))
        return path

    return make


def row(**fields) -> bytes:
    return json.dumps({**good(7), **fields}).encode()


BROKEN = {
    "missing field": (b'{"chosen": "a"}', "rejected must be given"),
    "empty field": (row(rejected="  "), "rejected must be a non-empty string"),
    "null": (row(chosen=None), "chosen must be a non-empty string; got null"),
    "number": (row(chosen=3), "got number"),
    "list": (row(rejected=["a"]), "got list"),
    "object": (row(rejected={"a": 1}), "got object"),
    "boolean": (row(rejected=True), "got boolean"),
    "invalid UTF-8": (b'{"chosen": "\xff"}', "must be UTF-8; got an invalid byte at offset 12"),
    "cut JSON": (b'{"chosen": "a', "one whole JSON object"),
    "deep JSON": (b"[" * 200_000, "nested too deeply"),
    "deep field": (b'{"a":' * 200_000, "nested too deeply"),
    "NaN": (b'{"chosen": NaN}', "the number NaN"),
    "infinity": (b'{"chosen": -Infinity}', "the number -Infinity"),
    "long number": (b'{"chosen": ' + b"9" * 5000 + b"}", "one whole JSON object"),
    "bare list": (b"[1]", "got a JSON list"),
    "bare string": (b'"a"', "got a JSON string"),
    "bare null": (b"null", "got a JSON null"),
    "two objects": (b"{} {}", "extra data"),
    "field twice": (b'{"chosen": "a", "chosen": "b"}', "names must be unique; got 'chosen' twice"),
    "surrogate": (b'{"chosen": "\\ud800", "rejected": "b"}', "lone surrogate at character 0"),
    "blank line": (b"", "a blank line before more rows"),
    "huge line": (b"x" * 1_100_000, "at most 1048576 bytes"),
    "no human turn": (row(chosen="hello"), "begin with 'Human:'"),
    "binary": (bytes(range(256)).replace(b"\n", b""), "must be"),
}
UNUSABLE = {
    "equal": (row(rejected=good(7)["chosen"]), "chosen must differ from rejected"),
    "prompts differ": (row(rejected=transcript("other", "a")), "share its prompt"),
    "empty answer": (row(rejected=transcript("question 7", "")), "non-empty assistant turn"),
    "no answer": (row(chosen="\n\nHuman: q"), "hold an assistant turn"),
    "duplicate": (line(0).strip(), "row must differ from all others"),
}


@pytest.mark.parametrize("name", [*BROKEN, *UNUSABLE])
def test_a_bad_row_is_refused_in_one_line_with_file_and_line(write, name):
    bad, message = {**BROKEN, **UNUSABLE}[name]
    path = write(bad)
    with pytest.raises(sources.DataError) as error:
        sources.read_preferences(path, split="all")
    text = str(error.value)
    assert message in text
    assert f"({path}, line 2)" in text
    assert "\n" not in text
    assert len(text) < 400 + len(str(path))
    assert "good answer" not in text


@pytest.mark.parametrize("name", [*BROKEN, *UNUSABLE])
def test_skip_counts_a_bad_row_and_keeps_the_others(write, name):
    bad, _ = {**BROKEN, **UNUSABLE}[name]
    data = sources.read_preferences(
        write(bad), split="all", on_bad_row="skip", max_bad_share=0.5, max_unusable_share=0.5
    )
    assert [row.line for row in data.rows] == [1, 3, 4]
    assert sum(data.dropped.values()) == 1
    assert data.read == 4
    assert next(iter(data.dropped)) in data.summary()


def test_skip_fails_above_its_limit(write):
    path = write(b"{")
    with pytest.raises(sources.DataError, match=r"1 of 4 rows \(1 invalid JSON\), above max_bad_s"):
        sources.read_preferences(path, split="all", on_bad_row="skip", max_bad_share=0.2)
    assert sources.read_preferences(path, split="all", on_bad_row="skip", max_bad_share=0.25)


def test_default_drops_few_unusable_pairs_but_no_broken_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    many = b"".join(line(index) for index in range(100))
    path.write_bytes(many + UNUSABLE["equal"][0] + b"\n")
    data = sources.read_preferences(path, split="all")
    assert data.dropped == {"chosen equals rejected": 1}
    with pytest.raises(sources.DataError, match="max_unusable_share"):
        sources.read_preferences(path, split="all", max_unusable_share=0)
    path.write_bytes(many + b"{\n")
    with pytest.raises(sources.DataError, match="line 101"):
        sources.read_preferences(path, split="all")


def test_duplicate_ids_are_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{**good(0), "id": 1}, {**good(1), "id": 2}, {**good(2), "id": 1}]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(sources.DataError, match=r"id must be unique; .* line 3"):
        sources.read_preferences(path, split="all")


def test_harmless_oddities_are_accepted(tmp_path):
    path = tmp_path / "rows.jsonl"
    odd = json.dumps(
        {
            "chosen": transcript("\u202ea\x00 <|im_start|>", "e\u0301\U0001f600"),
            "rejected": transcript("\u202ea\x00 <|im_start|>", "<|eos|>"),
        },
        ensure_ascii=False,
    )
    body = b"\xef\xbb\xbf" + line(0).replace(b"\n", b"\r\n") + odd.encode() + b"\r\n\r\n\n \n"
    path.write_bytes(body)
    data = sources.read_preferences(path, split="all")
    assert [row.line for row in data.rows] == [1, 2]
    assert data.rows[1].chosen[0].text == "e\u0301\U0001f600"
    assert data.rows[0].file == str(path)


def refuse(path, message, **options):
    with pytest.raises(sources.DataError, match=message) as error:
        sources.read_preferences(path, **{"split": "all", **options})
    assert "\n" not in str(error.value)


def test_bad_files_are_refused(tmp_path):
    refuse(tmp_path / "absent", "exist")
    refuse(tmp_path, "must hold")
    (tmp_path / "empty.jsonl").write_bytes(b"")
    refuse(tmp_path / "empty.jsonl", "at least one usable row")
    (tmp_path / "blank.jsonl").write_bytes(b"\n\n")
    refuse(tmp_path / "blank.jsonl", "at least one usable row")
    whole = gzip.compress(b"".join(line(i) for i in range(200)))
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:-20])
    refuse(tmp_path / "cut.jsonl.gz", "readable to its end")
    refuse(tmp_path / "cut.jsonl.gz", "readable to its end", on_bad_row="skip", max_bad_share=1)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0x55
    (tmp_path / "flipped.jsonl.gz").write_bytes(bytes(flipped))
    refuse(tmp_path / "flipped.jsonl.gz", "must")
    (tmp_path / "false.jsonl.gz").write_bytes(b"\x1f\x8bnonsense")
    refuse(tmp_path / "false.jsonl.gz", "readable to its end")


def test_folders_devices_and_links_in_place_of_a_file_are_refused(tmp_path):
    data = tmp_path / "data"
    (data / "a.jsonl").mkdir(parents=True)
    refuse(data, "regular file; got a folder")
    (data / "a.jsonl").rmdir()
    os.mkfifo(data / "a.jsonl")
    refuse(data, "no regular file")
    (data / "a.jsonl").unlink()
    (tmp_path / "outside.jsonl").write_bytes(line(0))
    (data / "a.jsonl").symlink_to(tmp_path / "outside.jsonl")
    refuse(data, "stay inside its folder")
    (data / "a.jsonl").unlink()
    (data / "b.jsonl").write_bytes(line(0))
    (tmp_path / "link").symlink_to(data)
    assert len(sources.read_preferences(tmp_path / "link", split="all")) == 1


def test_a_line_without_end_is_refused_in_bounded_memory(tmp_path):
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(gzip.compress(b"x" * 3_000_000, 1))
    with pytest.raises(sources.DataError, match="at most 1000 bytes"):
        list(lines.JsonLines(path.name, str(path), (str(path),), 1000).rows())


@pytest.mark.parametrize(
    "options",
    [
        {"split": "test"},
        {"on_bad_row": "ignore"},
        {"max_bad_share": 1.5},
        {"max_unusable_share": float("nan")},
        {"holdout": 1},
    ],
)
def test_bad_options_are_refused(tmp_path, options):
    refuse(tmp_path, "must be", **options)


def prompts(data):
    return {row.prompt[0].text for row in data.rows}


def test_names_decide_the_split(tmp_path):
    (tmp_path / "x.train.jsonl").write_bytes(line(0) + line(1))
    (tmp_path / "x.test.jsonl.gz").write_bytes(gzip.compress(line(2)))
    (tmp_path / "latest-train.jsonl").write_bytes(line(3))  # "latest" is no test
    (tmp_path / "README.md").write_text("not data")
    train = sources.read_preferences(tmp_path, split="train")
    held = sources.read_preferences(tmp_path, split="eval")
    assert prompts(train) == {"question 0", "question 1", "question 3"}
    assert prompts(held) == {"question 2"}
    assert len(sources.read_preferences(tmp_path, split="all")) == 4
    assert len(sources.read_preferences(tmp_path, split="train", names="latest*", holdout=0)) == 1
    refuse(tmp_path / "x.test.jsonl.gz", "named for split 'train'", split="train")
    (tmp_path / "more.jsonl").write_bytes(line(4))
    refuse(tmp_path, "say train or eval in its name", split="eval")


def test_hold_out_keeps_all_rows_of_a_prompt_on_one_side(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = []
    for index in range(200):
        fields = good(index % 50)
        fields["rejected"] += str(index)
        rows.append(json.dumps(fields))
    path.write_text("\n".join(rows))
    train = sources.read_preferences(path, split="train", holdout=0.2)
    held = sources.read_preferences(path, split="eval", holdout=0.2)
    assert not prompts(train) & prompts(held)
    assert len(prompts(held)) == 10
    assert len(held) == 40
    assert len(train) == 160
    path.write_text("\n".join(reversed(rows)))
    assert prompts(sources.read_preferences(path, split="eval", holdout=0.2)) == prompts(held)
    small = tmp_path / "small.jsonl"
    small.write_bytes(line(0) + line(1))
    assert len(sources.read_preferences(small, split="eval")) == 1


def test_fingerprint_follows_content_and_selection(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line(0) + line(1))

    def of(split="train"):
        return sources.read_preferences(path, split=split).fingerprint

    first = of()
    assert first == of()
    assert len({first, of("eval"), of("all")}) == 3
    path.write_bytes(line(0) + line(2))
    assert of() != first


TFDS = """
import json, pathlib, sys
import tensorflow_datasets as tfds
sys.path.insert(0, {repo!r})
from alignjax.data import sources
folder, rows = pathlib.Path(sys.argv[1]), json.load(sys.stdin)

class Pairs(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    def _info(self):
        features = tfds.features.FeaturesDict(
            {{"chosen": tfds.features.Text(), "rejected": tfds.features.Text()}})
        return tfds.core.DatasetInfo(builder=self, features=features)
    def _split_generators(self, manager):
        return {{"train": self._generate_examples(rows[:-2]),
                "test": self._generate_examples(rows[-2:])}}
    def _generate_examples(self, part):
        yield from enumerate(part)

builder = Pairs(data_dir=str(folder), file_format="array_record")
builder.download_and_prepare()
train = sources.read_preferences(builder.data_dir, split="train")
held = sources.read_preferences(builder.data_dir, split="eval")
texts = sorted(row.chosen[0].text for row in train.rows)
assert "tensorflow" not in sys.modules and "jax" not in sys.modules
print(json.dumps([builder.data_dir, texts, len(held), train.rows[0].line]))
"""


def test_tfds_array_record_without_tensorflow(tmp_path):
    repo = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    rows = [good(index) for index in range(6)]
    rows[0]["chosen"] += " \u00e9\U0001f600"
    done = subprocess.run(
        [sys.executable, "-c", TFDS.format(repo=repo), str(tmp_path)],
        input=json.dumps(rows), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    folder, texts, held, first = json.loads(done.stdout.splitlines()[-1])
    assert texts == ["good answer 0 \u00e9\U0001f600", *(f"good answer {i}" for i in (1, 2, 3))]
    assert (held, first) == (2, 1)
    information = os.path.join(folder, "dataset_info.json")
    with open(information) as stream:
        text = stream.read()
    with open(information, "w") as stream:
        stream.write(text.replace("array_record", "tfrecord"))
    refuse(folder, "file_format='array_record'; got tfrecord")
    with open(information, "w") as stream:
        stream.write("[]")
    refuse(folder, "information of a TFDS folder")


def test_importing_the_package_loads_no_heavy_library():
    code = (
        "import sys, alignjax.data.sources, alignjax.data.check, alignjax.data.baselines\n"
        "heavy = {'jax', 'tensorflow', 'tensorflow_datasets', 'sentencepiece', 'scipy', 'flax'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
