"""Functions that a model calls: read from its tokens, answered by the template, then judged."""

import dataclasses

import numpy as np
import pytest

from alignjax.envs import env, tools
from alignjax.text import template_families, template_tools
from tests.envs.test_dialogue import talk

FAMILIES = ["qwen2.5", "mistral-v3", "llama3.1", "smollm3", "deepseek-v3", "qwen3-instruct"]
ADD = tools.Function(
    {
        "type": "function",
        "function": {"name": "add", "description": "a + b", "parameters": {"type": "object"}},
    },
    run=lambda task, arguments: str(task["base"] + arguments["a"] + arguments["b"]),
)


@dataclasses.dataclass(kw_only=True)
class Sums(tools.ToolsConfig):
    """Pays 1 for the right sum after one call."""

    def functions(self):
        return (ADD,)

    def judge(self, task, text, calls):
        return float(text == str(task["sum"]) and len(calls) == 1)


def speaking(family):
    speaker = talk(family)
    place = template_families.FAMILIES[family].tools.place
    return dataclasses.replace(speaker, tools=(ADD.description,) if place else ())


def sampled(speaker, text, *calls):
    """Ids of an assistant's turn, as if they were sampled."""
    own = template_tools.Message("assistant", text, calls)
    ids, mask = speaker.encode_chat([("user", "So?"), own])
    return [i for i, trained in zip(ids, mask, strict=True) if trained]


def opened(speaker, **options):
    return Sums(**options).opened(env.Setting(speaker.eos_id, speaker))


def start(game, rows):
    return game.start(rows, np.zeros((len(rows), 2), np.uint32))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_call_is_run_and_its_result_laid_out_by_the_template(family):
    speaker = speaking(family)
    game = opened(speaker)
    opening, states = start(game, [{"base": 100, "sum": 103}])
    assert opening == [[]]
    call = template_tools.Call("add", {"a": 1, "b": 2}, "abcdef012")
    asked = sampled(speaker, "", call)
    step = env.step(game, states, [asked])
    assert step.rewards.tolist() == [0]
    assert not step.done[0]

    # The whole conversation, as the template lays it out at once.
    turns = [("user", "So?"), template_tools.Message("assistant", "", (call,))]
    result = template_tools.Message("tool", "103", (), "abcdef012" if call.id else "")
    if not template_families.FAMILIES[family].tools.ids:
        result = result._replace(id="")
    whole, _ = speaker.encode_chat([*turns, result], generation_prompt=True)
    before, _ = speaker.encode_chat(turns[:1], generation_prompt=True)
    assert whole == [*before, *asked, *step.observations[0]]

    step = env.step(game, step.states, [sampled(speaker, "103")])
    assert step.done[0]
    assert step.rewards.tolist() == [1]
    assert step.observations == [[]]
    alone = env.step(game, start(game, [{"base": 100, "sum": 103}])[1], [sampled(speaker, "103")])
    assert alone.rewards.tolist() == [0]  # no call was made


def test_errors_are_told_to_the_model():
    speaker = speaking("qwen2.5")
    game = opened(speaker)
    _, states = start(game, [{"base": 0, "sum": 0}] * 4)
    call = template_tools.Call
    answers = [
        sampled(speaker, "", call("mul", {"a": 1})),
        sampled(speaker, "", call("add", {"a": 1})),
        sampled(speaker, "", call("add", {"a": 1, "b": "x"})),
        [*speaker.encode('<tool_call>\n{"name": '), speaker.eos_id],
    ]
    step = env.step(game, states, answers)
    assert not step.done.any()
    told = [speaker.decode(ids) for ids in step.observations]
    for text, words in zip(
        told,
        (
            "error: there is no function mul; there are add",
            "error: KeyError: 'b'",
            "error: TypeError: unsupported operand",
            "error: a call that is no JSON",
        ),
        strict=True,
    ):
        assert words in text


def test_several_calls_get_a_result_each():
    speaker = speaking("qwen2.5")
    game = opened(speaker)
    _, states = start(game, [{"base": 0, "sum": 0}])
    calls = [template_tools.Call("add", {"a": n, "b": 1}) for n in (1, 5)]
    step = env.step(game, states, [sampled(speaker, "Both.", *calls)])
    text = speaker.decode(step.observations[0])
    assert text.index("2") < text.index("6")
    assert [call.arguments["a"] for call in step.states[0].calls] == [1, 5]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"form of function calls is known; got smollm2 \("):
        opened(talk("smollm2"))
    with pytest.raises(ValueError, match=r"list the functions of Sums, add; got none"):
        opened(talk("qwen2.5"))
    other = dataclasses.replace(talk("qwen2.5"), tools=({"name": "mul"},))
    with pytest.raises(ValueError, match=r"list the functions of Sums, add; got mul"):
        opened(other)
