"""Whatever a file holds: it is read, or refused in one line; never a traceback, a hang, or memory.

Inputs are real small ones, damaged. A case is quick with few of them and slow with many; both are
the same at every run. ALIGNJAX_FUZZ_EXAMPLES sets another number.
"""

import dataclasses
import functools
import json
import os
import pathlib
import resource
import signal
import tempfile
import traceback

import jax
import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="needs hypothesis: pip install -e '.[dev]'")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alignjax.cli import config_file, flags, outcome
from alignjax.commands import train
from alignjax.data import check
from alignjax.models import transformer
from alignjax.models.checkpoints import folder, gguf_io, safetensors_io
from alignjax.text import jinja_template, templates
from alignjax.text.tokenizers import load
from tests.commands import cli, open_model
from tests.data.layouts import test_layouts as rows
from tests.fuzz import mutations
from tests.models.checkpoints import test_gguf_io as ggufs
from tests.models.families import test_config_json as configs
from tests.text import small_tokenizers

SHAPE = dataclasses.replace(open_model.SHAPE, layers=1, width=8, heads=2, kv_heads=1, ff=8)
SECONDS = 10.0  # of a processor, for one input
MEMORY = 256 * 2**20  # bytes, for inputs of at most 2^20
TEXT = "The <|im_end|> river \u2581 runs 42 \U0001f600 [INST]"


class TooLong(BaseException):
    """Reading took more than `SECONDS`."""


def _too_long(number, frame):
    raise TooLong


def read_or_refused(read, *inputs):
    """Reads; an error must be one line about the input."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    earlier = signal.signal(signal.SIGPROF, _too_long)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    wrong = ""
    try:
        read(*inputs)
    except Exception as error:
        full = "".join(traceback.format_exception(error))
        message = outcome.describe(error)
        is_one_line = 0 < len(message) <= outcome.LONGEST and message == outcome.one_line(message)
        wrong = "" if outcome.is_usage(error) and is_one_line else full
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, earlier)
    assert not wrong, wrong
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < MEMORY


def with_bytes(name, then):
    """Reads bytes as a file of that name."""

    def read(content):
        with tempfile.TemporaryDirectory() as place:
            path = pathlib.Path(place, name)
            path.write_bytes(content)
            then(path)

    return read


def use_tokenizer(path):
    own = load.load_tokenizer(path)
    ids = own.encode(TEXT)
    own.decode(ids)
    load.read_chat_template(path)
    load.read_stops(path, 1000)


def use_tensors(found):
    for name, info in list(found.tensors.items())[:8]:
        if np.prod(info.shape, dtype=float) < 2**20:
            found.read(name)


def use_model(path):
    own = folder.open_model(path)
    own.config.validate()


@functools.cache
def model_folder() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as place:
        path = pathlib.Path(place, "m")
        shapes = jax.eval_shape(transformer.transformer(SHAPE).init, jax.random.key(0))
        params = jax.tree.map(lambda own: np.ones(own.shape, own.dtype), shapes)
        folder.save_model(path, SHAPE, params, folder.hf_fields(SHAPE))
        open_model.write_tokenizer(path)
        return {file.name: file.read_bytes() for file in path.iterdir()}


def in_folder(name, then):
    """Reads bytes as that file of a model's folder, whose other files are sound."""

    def read(content):
        with tempfile.TemporaryDirectory() as place:
            for other, whole in model_folder().items():
                pathlib.Path(place, other).write_bytes(whole)
            pathlib.Path(place, name).write_bytes(content)
            then(pathlib.Path(place))

    return read


@functools.cache
def gguf_bytes() -> bytes:
    pieces = ["<unk>", "<s>", "</s>", *map(chr, range(97, 123)), "\u2581th", "e"]
    kinds = [2, 3, 3, *[1] * (len(pieces) - 3)]
    texts = b"".join(map(ggufs.text, pieces))
    array = len(pieces).to_bytes(8, "little")
    metadata = [
        ggufs.pair("tokenizer.ggml.model", 8, ggufs.text("llama")),
        ggufs.pair("tokenizer.ggml.tokens", 9, (8).to_bytes(4, "little") + array + texts),
        ggufs.pair("tokenizer.ggml.scores", 9, (6).to_bytes(4, "little") + array
                   + np.arange(len(pieces), dtype="<f4").tobytes()),
        ggufs.pair("tokenizer.ggml.token_type", 9, (5).to_bytes(4, "little") + array
                   + np.asarray(kinds, "<i4").tobytes()),
        ggufs.pair("tokenizer.ggml.bos_token_id", 4, (1).to_bytes(4, "little")),
        ggufs.pair("tokenizer.chat_template", 8, ggufs.text("{{ messages }}")),
    ]  # fmt: skip
    return ggufs.raw_file(ggufs.entry(), metadata=metadata)


def index_bytes() -> bytes:
    names = safetensors_names()
    return mutations.encoded({"metadata": {}, "weight_map": dict.fromkeys(names, "a.safetensors")})


@functools.cache
def safetensors_names() -> list[str]:
    content = model_folder()["model.safetensors"]
    size = int.from_bytes(content[:8], "little")
    return [n for n in json.loads(content[8 : 8 + size]) if n != "__metadata__"]


def use_index(path):
    content = model_folder()["model.safetensors"]
    (path.parent / "a.safetensors").write_bytes(content)
    use_tensors(safetensors_io.open_folder(path.parent))


# {case: (what reads bytes, bytes that are sound)}; JSON is damaged as values too.
BYTES = {
    "safetensors": (
        with_bytes("model.safetensors", lambda p: use_tensors(safetensors_io.open_folder(p))),
        lambda: model_folder()["model.safetensors"],
    ),
    "index": (with_bytes("model.safetensors.index.json", use_index), index_bytes),
    "gguf": (with_bytes("m.gguf", lambda p: use_tensors(gguf_io.open_file(p))), gguf_bytes),
    "gguf vocabulary": (with_bytes("m.gguf", use_tokenizer), gguf_bytes),
    "gguf model": (with_bytes("m.gguf", use_model), gguf_bytes),
    "tokenizer.json": (with_bytes("tokenizer.json", use_tokenizer), small_tokenizers.byte_level),
    "tokenizer.model": (
        with_bytes("tokenizer.model", use_tokenizer),
        small_tokenizers.sentencepiece_model,
    ),
    "tokenizer_config.json": (
        in_folder("tokenizer_config.json", use_tokenizer),
        lambda: model_folder()["tokenizer_config.json"],
    ),
    "generation_config.json": (
        in_folder("generation_config.json", use_tokenizer),
        lambda: b'{"eos_token_id": [1, 2], "temperature": 0.5}',
    ),
    "config.json": (in_folder("config.json", use_model), lambda: model_folder()["config.json"]),
}
JSON = ("index", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json")
EXAMPLES = os.environ.get("ALIGNJAX_FUZZ_EXAMPLES")
MANY = (pytest.mark.slow,)
TIERS = [int(EXAMPLES)] if EXAMPLES else [20, pytest.param(400, marks=MANY)]


def all_of(examples, strategy, then):
    """Runs so many examples of a strategy, the same at every run."""

    @settings(
        max_examples=examples, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def run(value):
        then(value)

    run()


@pytest.mark.parametrize("examples", TIERS)
@pytest.mark.parametrize("case", BYTES)
def test_damaged_files(case, examples):
    read, sound = BYTES[case]
    strategy = mutations.changed_bytes(sound())
    if case in JSON:
        values = mutations.changed_values(json.loads(sound())).map(mutations.encoded)
        strategy = strategy | values
    all_of(examples, strategy, functools.partial(read_or_refused, read))


@pytest.mark.parametrize("examples", TIERS)
def test_configurations_of_every_family(examples):
    strategy = st.sampled_from(configs.FAMILIES).flatmap(
        lambda name: mutations.changed_values(configs.fields_of(name))
    )

    def parse(values):
        folder.parse_config(values, "config.json").validate()

    all_of(examples, strategy, functools.partial(read_or_refused, parse))


@pytest.mark.parametrize("examples", TIERS)
def test_rows_of_every_layout(examples):
    def read(case, fields, content):
        lines = mutations.encoded(fields) + b"\n" if content is None else content
        read_file = with_bytes(
            "rows.jsonl",
            lambda path: check.check_data(path, layout=rows.CASES[case][0]),
        )
        read_file(lines)

    def damaged(case):
        whole = rows.CASES[case][1]
        values = mutations.changed_values(whole).map(lambda v: (case, v, None))
        content = mutations.changed_bytes(mutations.encoded(whole) + b"\n")
        return values | content.map(lambda b: (case, None, b))

    strategy = st.sampled_from(sorted(rows.CASES)).flatmap(damaged)
    all_of(examples, strategy, lambda value: read_or_refused(read, *value))


TEMPLATE = (
    "{%- for m in messages %}{% if m.role == 'user' %}{{ m.content | trim }}{% else %}"
    "{% generation %}{{ m['content'] + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
    "{{ tools | tojson }}{% set ns = namespace(a=1) %}{% macro f(x) %}{{ x * 3 }}{% endmacro %}"
)
PARTS = (
    "{% for i in range(99999) %}", "{% endfor %}", "{{ 'x' * 10 ** 9 }}", "{{ [1] * 10 ** 9 }}",
    "{{ ''.__class__ }}", "{{ f(f) }}", "{{ 9 ** 9 ** 9 }}", "{{ '%0999999999d' | format(1) }}",
    "{{ self }}", "{{ messages | tojson(indent=999999) }}", "{{ '{:>999999999}'.format(1) }}",
    "(" * 500, "{% if x %}" * 50, "{{ namespace }}", "{% raw %}", "{{ lipsum(n=999999) }}",
    "{{ range(10 ** 9) | list }}", "{% block a %}{{ super() }}{% endblock %}", "\x00", "{#",
)  # fmt: skip


@st.composite
def changed_templates(draw):
    text = TEMPLATE
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        end = at + draw(st.sampled_from((0, 0, 1, 20)))
        text = text[:at] + draw(st.sampled_from(PARTS)) + text[end:]
    return text


@pytest.mark.parametrize("examples", [2, pytest.param(60, marks=MANY)])
def test_damaged_templates(examples):
    pytest.importorskip("jinja2")
    turns = [templates.Message("user", "a"), templates.Message("assistant", "b")]

    def render(source):
        jinja_template.JinjaTemplate(source, seconds=5.0).render(turns, tokens={"eos_token": "e"})

    all_of(examples, changed_templates(), functools.partial(read_or_refused, render))


VALUES = (
    "", "0", "-1", "1", "1e3", "1e400", "nan", "inf", "-inf", "0x10", "1_0", "true", "None", "()",
    "(1,", "[1]", "{}", "'", "\x00", "9" * 50, "9" * 5000, "a" * 5000, "\u202e", "=", "--", "1,2,3",
    "../../etc", "\ud800", "(" * 300,
)  # fmt: skip


@pytest.mark.parametrize("examples", [3, pytest.param(60, marks=MANY)])
def test_flags_of_an_experiment(examples):
    file = f"--config={cli.ROOT / 'experiments' / 'hh_dpo.py'}:micro"
    _, _, fields = config_file.load(file.removeprefix("--config="))
    names = [f"config.{n.removeprefix('config.')}" for n in fields]
    words = st.builds(
        lambda name, value, form: form.format(name=name, value=value),
        st.sampled_from([*names, "workdir", "config.lop.steps", "config", "", "config."]),
        st.sampled_from(VALUES) | st.text(max_size=8),
        st.sampled_from(("--{name}={value}", "--{name}", "{name}={value}", "-{name}")),
    ).filter(lambda word: word not in ("-h", "--help"))

    def parse(argv):
        flags.parse([file, *argv], command="train", options=train.OPTIONS, needs_config=True)

    strategy = st.lists(words, min_size=1, max_size=3)
    all_of(examples, strategy, functools.partial(read_or_refused, parse))
