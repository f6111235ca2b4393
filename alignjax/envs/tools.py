"""Environments whose functions a model calls, in the form of its own template.

    SEARCH = tools.Function(
        {"name": "search", "description": "Pages about a word.", "parameters": {...}},
        run=lambda task, arguments: pages[arguments["word"]],
    )

    @dataclasses.dataclass(kw_only=True)
    class Library(tools.ToolsConfig):
        def functions(self):
            return (SEARCH,)

The data list the functions in their prompts: `data.tools=[SEARCH.description]`. An answer without a
call ends the episode.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.envs import dialogue, env
from alignjax.text import template_tools, templates, tool_calls


class Function(NamedTuple):
    """A function that a model may call.

    description: its JSON description, as the template lists it. run: (row of the data, arguments)
    -> text; a pure function of both, so that a run goes on with the same bits. What it raises is
    told to the model as an error.
    """

    description: Mapping[str, Any]
    run: Callable[[env.Task, Mapping[str, Any]], str]

    @property
    def name(self) -> str:
        return _name(self.description)


class State(NamedTuple):
    """Of an episode: the row of the data, and the calls up to now."""

    task: env.Task
    calls: tuple[template_tools.Call, ...] = ()


@dataclasses.dataclass(kw_only=True)
class ToolsConfig(dialogue.DialogueConfig):
    """Base class of environments of functions: `functions`, and `judge` where they pay."""

    limit: int = 4  # answers of an episode at most, the last without a call
    role: str = "tool"

    def functions(self) -> Sequence[Function]:
        """What a model may call."""
        raise NotImplementedError

    def judge(self, task: env.Task, text: str, calls: Sequence[template_tools.Call]) -> float:
        """What an answer without a call is paid, after these calls; NaN where it can't be said.

        Rules need none: they read the completion, whatever an environment pays.
        """
        return 0.0

    def opened(self, setting: env.Setting) -> env.Env:
        return ToolUse(self, setting)


class ToolUse(dialogue.Dialogue):
    """A `ToolsConfig` at work with the data's tokenizer and template.

    Raises:
      ValueError: as for `dialogue.Dialogue`; the form of calls is not known, or the data's prompts
        list other functions.
    """

    def __init__(self, config: ToolsConfig, setting: env.Setting):
        name = type(config).__name__
        if setting.speaker is not None:
            self._style = tool_calls.style_of(setting.speaker, f"algorithm.env of {name}")
        super().__init__(config, setting)
        self._own = config
        self._functions = {function.name: function for function in config.functions()}
        listed = {_name(tool) for tool in tool_calls.listed(self._speaker)}
        if self._style.place and listed != set(self._functions):
            raise ValueError(
                f"data.tools must list the functions of {name}, {', '.join(self._functions)}; got "
                f"{', '.join(sorted(listed)) or 'none'} (algorithm.env). Set data.tools to their "
                "descriptions."
            )

    def start(
        self, tasks: Sequence[env.Task], keys: np.ndarray
    ) -> tuple[Sequence[env.Ids], Sequence[Any]]:
        return [[] for _ in tasks], [State(task) for task in tasks]

    def step(self, states: Sequence[Any], answers: Sequence[env.Ids]) -> env.Step:
        said: list[env.Ids] = []
        paid, done, after = [], [], []
        for state, ids in zip(states, answers, strict=True):
            ended = bool(len(ids)) and ids[-1] in self._ends
            text = tool_calls.written(self._speaker, ids[:-1] if ended else ids)
            turn = tool_calls.read(self._style, text)
            is_last = not turn.calls and not turn.problem
            results = [] if is_last else self._results(state.task, turn)
            said.append(self.follow(results, ended=ended) if results else [])
            paid.append(self._own.judge(state.task, turn.text, state.calls) if is_last else 0.0)
            done.append(is_last)
            after.append(state._replace(calls=(*state.calls, *turn.calls)))
        return env.Step(said, np.asarray(paid, np.float32), np.asarray(done, bool), after)

    def _results(self, task: env.Task, turn: tool_calls.Written) -> list[templates.Message]:
        """The turns that answer calls."""
        texts = [(self._result(task, call), call.id) for call in turn.calls]
        if turn.problem:
            texts.append((f"error: {turn.problem}", ""))
        return [templates.Message("tool", text, (), id or dialogue.CALL_ID) for text, id in texts]

    def _result(self, task: env.Task, call: template_tools.Call) -> str:
        function = self._functions.get(call.name)
        if function is None:
            known = ", ".join(self._functions)
            return f"error: there is no function {call.name}; there are {known}"
        try:
            return str(function.run(task, call.arguments))
        except Exception as error:  # what a model asks for may be anything
            return f"error: {type(error).__name__}: {error}"


def _name(description: Mapping[str, Any]) -> str:
    return str(description.get("function", description)["name"])
