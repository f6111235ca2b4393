"""The chat templates of the families, as data; each with the rules that are easy to miss.

Differences to the families' own Jinja sources, all on purpose: dates are given and never read
from a clock; Mistral's v3 system text stands in the last user turn always (its Jinja drops it if
another turn follows); DeepSeek's prompt ends at <｜Assistant｜>, and a second round of calls looks
like the first (its Jinja garbles it); SmolLM3's calls are written, as its list of functions asks
(its Jinja leaves them out).
"""

from alignjax.text import template_tools, templates
from alignjax.text.templates import Template, Tools

_ALL = frozenset({templates.SYSTEM, templates.USER, templates.ASSISTANT})
_TALK = frozenset({templates.USER, templates.ASSISTANT})

# Our own layout, as chat.encode_chat writes it.
HH = Template(
    name="hh",
    needs=("<|bos|>", "<|eos|>", "<|human|>", "<|assistant|>", "<|system|>"),
    begin="<|bos|>",
    system=("<|system|>", ""),
    user=("<|human|>", ""),
    assistant="<|assistant|>",
    end="<|eos|>",
    system_first=False,
)

# BOS opens every user turn, and the vocabulary puts a space before [INST]; the model writes a
# space before and after its answer.
LLAMA2 = Template(
    name="llama2",
    needs=("<s>", "</s>"),
    system_in_user=("<<SYS>>\n", "\n<</SYS>>\n\n"),
    user=("<s>[INST] ", " [/INST]"),
    assistant="",
    end="</s>",
    spaces=(" ", " "),
    trim=_TALK,
    strip_joined=True,
    alternate=True,
)

# 7B Instruct v0.1 and v0.2, Mixtral: [INST] is ordinary text with spaces around it.
MISTRAL_V1 = Template(
    name="mistral-v1",
    needs=("<s>", "</s>"),
    begin="<s>",
    system_in_user=("", "\n\n"),
    user=(" [INST] ", " [/INST]"),
    assistant="",
    end="</s>",
    spaces=(" ", ""),
    own_spaces=True,
    alternate=True,
)

_MISTRAL_TOOLS = (
    "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
)  # fmt: skip

# 7B Instruct v0.3, Large 2407: [INST] is a control token. The system's text and the functions stand
# with the last user turn, so a prompt is a prefix of its conversation where its answer comes last.
# The text beside calls is not written; results are written as they are.
MISTRAL_V3 = Template(
    name="mistral-v3",
    needs=("<s>", "</s>", "[INST]", "[/INST]"),
    begin="<s>",
    system_in_user=("", "\n\n"),
    system_in_last=True,
    user=("[INST] ", "[/INST]"),
    assistant="",
    end="</s>",
    spaces=(" ", ""),
    own_spaces=True,
    trim=frozenset({templates.ASSISTANT}),
    alternate=True,
    tools=Tools(
        needs=_MISTRAL_TOOLS,
        place=template_tools.LAST_USER,
        before_header=True,
        listing=("[AVAILABLE_TOOLS] [", "][/AVAILABLE_TOOLS]"),
        between=", ",
        written="bare",
        calls=("[TOOL_CALLS] [", "]"),
        join=", ",
        lead=None,
        ids=True,
        result=('[TOOL_RESULTS] {"content": ', '"}[/TOOL_RESULTS]'),
        result_id=', "call_id": "',
    ),
)

LLAMA3 = Template(
    name="llama3",
    needs=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    begin="<|begin_of_text|>",
    system=("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
    user=("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
    assistant="<|start_header_id|>assistant<|end_header_id|>\n\n",
    end="<|eot_id|>",
    trim=_ALL,
    system_first=False,
)

_LLAMA_TOOLS = (
    "Given the following functions, please respond with a JSON for a function call with its "
    "proper arguments that best answers the given prompt.\n\nRespond in the format "
    '{"name": function name, "parameters": dictionary of argument name and its value}.'
    "Do not use variables.\n\n"
)

# There always is a system turn, which states two dates: that of the knowledge and today's, which
# the family's template fixes at 26 Jul 2024. Functions are listed in the first user turn. One
# call a turn, and the text beside it is not written. Results are JSON strings of "ipython".
LLAMA3_1 = Template(
    name="llama3.1",
    needs=LLAMA3.needs,
    begin=LLAMA3.begin,
    system=LLAMA3.system,
    system_lead="Cutting Knowledge Date: December 2023\nToday Date: {date}\n\n",
    date="26 Jul 2024",
    user=LLAMA3.user,
    assistant=LLAMA3.assistant,
    end=LLAMA3.end,
    trim=_ALL,
    system_first=False,
    tools=Tools(
        place=templates.USER,
        listing=(_LLAMA_TOOLS, ""),
        around=("", "\n\n"),
        indent=4,
        system_lead="Environment: ipython\n",
        call_key="parameters",
        most_calls=1,
        lead=None,
        result=("<|start_header_id|>ipython<|end_header_id|>\n\n", "<|eot_id|>"),
        result_json=True,
    ),
)

# As 3.1, but its template reads the clock: the date must be given.
LLAMA3_2 = Template(**{**vars(LLAMA3_1), "name": "llama3.2", "date": None})

# No date, no default system turn; only the system's text is stripped. Text beside calls stands
# between <|python_start|> and <|python_end|>, even where it is empty.
LLAMA4 = Template(
    name="llama4",
    needs=("<|begin_of_text|>", "<|header_start|>", "<|header_end|>", "<|eot|>"),
    begin="<|begin_of_text|>",
    system=("<|header_start|>system<|header_end|>\n\n", "<|eot|>"),
    user=("<|header_start|>user<|header_end|>\n\n", "<|eot|>"),
    assistant="<|header_start|>assistant<|header_end|>\n\n",
    end="<|eot|>",
    trim=frozenset({templates.SYSTEM}),
    tools=Tools(
        place=templates.USER,
        listing=(_LLAMA_TOOLS, ""),
        around=("", "\n\n"),
        indent=4,
        system_lead="Environment: ipython\n",
        call_key="parameters",
        lead=("<|python_start|>", "<|python_end|>"),
        result=("<|header_start|>ipython<|header_end|>\n\n", "<|eot|>"),
        result_json=True,
    ),
)

_QWEN_TOOLS = Tools(
    place=templates.SYSTEM,
    listing=(
        "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are "
        "provided with function signatures within <tools></tools> XML tags:\n<tools>",
        "\n</tools>\n\nFor each function call, return a json object with function name and "
        "arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n"
        '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>',
    ),
    around=("\n", ""),
    call=("<tool_call>\n", "\n</tool_call>"),
    join="\n",
    results=("<|im_start|>user", "<|im_end|>\n"),
    result=("\n<tool_response>\n", "\n</tool_response>"),
)

CHATML = Template(
    name="chatml",
    needs=("<|im_start|>", "<|im_end|>"),
    system=("<|im_start|>system\n", "<|im_end|>\n"),
    user=("<|im_start|>user\n", "<|im_end|>\n"),
    assistant="<|im_start|>assistant\n",
    end="<|im_end|>",
    after="\n",
    system_first=False,
)

# Its chats close with <|im_end|>, which is its eos; <|endoftext|> is the pad.
QWEN2_5 = Template(
    **{
        **vars(CHATML),
        "name": "qwen2.5",
        "default_system": "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
        "tools": _QWEN_TOOLS,
    }
)

# Thinking off: an empty block stands before the last answer, and only there, because the
# template takes the thoughts out of the turns before it. A prompt is therefore a prefix of its
# conversation where its answer comes last.
QWEN3 = Template(
    **{
        **vars(CHATML),
        "name": "qwen3",
        "answer": "<think>\n\n</think>\n\n",
        "answer_last": True,
        "trim_lines": True,
        "refuse": ("<think>", "</think>"),
        "tools": _QWEN_TOOLS,
    }
)

# The 2507 instruct models and others that never think.
QWEN3_INSTRUCT = Template(**{**vars(CHATML), "name": "qwen3-instruct", "tools": _QWEN_TOOLS})

SMOLLM2 = Template(
    **{
        **vars(CHATML),
        "name": "smollm2",
        "default_system": ("You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
    }
)

_SMOLLM_TOOLS = Tools(
    place=templates.SYSTEM,
    listing=(
        "### Tools\n\nYou may call one or more functions to assist with the user query.\nYou are "
        "provided with function signatures within <tools></tools> XML tags:\n\n<tools>\n",
        "</tools>\n\nFor each function call, return a json object with function name and arguments "
        "within <tool_call></tool_call> XML tags:\n<tool_call>\n"
        '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>',
    ),
    around=("", "\n"),
    written="python",
    system_close="<|im_end|>\n",
    call=("<tool_call>\n", "\n</tool_call>"),
    join="\n",
    result=("<|im_start|>user\n", "<|im_end|>\n"),
)

# Thinking off. The system turn states the date and is closed only where it lists functions; every
# answer has the block. Words that start with a slash are switches in the system's text.
SMOLLM3 = Template(
    **{
        **vars(CHATML),
        "name": "smollm3",
        "system": ("<|im_start|>system\n", "\n\n"),
        "system_lead": (
            "## Metadata\n\nKnowledge Cutoff Date: June 2025\nToday Date: {date}\n"
            "Reasoning Mode: /no_think\n\n## Custom Instructions\n\n"
        ),
        "default_system": "You are a helpful AI assistant named SmolLM, trained by Hugging Face.",
        "answer": "<think>\n\n</think>\n",
        "trim_lines": True,
        "system_first": True,
        "rstrip_system": True,
        "refuse": ("<think>", "</think>"),
        "refuse_system": ("/think", "/no_think", "/system_override"),
        "tools": _SMOLLM_TOOLS,
    }
)

# Gemma 1 and 2 know no system turn. The end of a turn is trained, the line break after it is not.
GEMMA = Template(
    name="gemma",
    needs=("<bos>", "<start_of_turn>", "<end_of_turn>"),
    begin="<bos>",
    user=("<start_of_turn>user\n", "<end_of_turn>\n"),
    assistant="<start_of_turn>model\n",
    end="<end_of_turn>",
    after="\n",
    trim=_TALK,
    alternate=True,
)

GEMMA3 = Template(**{**vars(GEMMA), "name": "gemma3", "system_in_user": ("", "\n\n")})

_DEEPSEEK_TOOLS = Tools(
    needs=tuple(
        f"<｜{name}｜>"
        for name in (
            "tool▁calls▁begin", "tool▁calls▁end", "tool▁call▁begin", "tool▁call▁end", "tool▁sep",
            "tool▁outputs▁begin", "tool▁outputs▁end", "tool▁output▁begin", "tool▁output▁end",
        )
    ),
    place="",
    calls=("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    call=("<｜tool▁call▁begin｜>function<｜tool▁sep｜>", "\n```<｜tool▁call▁end｜>"),
    call_between="\n```json\n",
    join="\n",
    join_text=False,
    results=("<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>"),
    result=("<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"),
    after_results="",
)  # fmt: skip

# The system's text follows BOS bare. An answer's thoughts would be cut off by the template. No
# functions are listed; an answer follows their results without a header.
DEEPSEEK_V3 = Template(
    name="deepseek-v3",
    needs=("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
    begin="<｜begin▁of▁sentence｜>",
    system=("", ""),
    user=("<｜User｜>", ""),
    assistant="<｜Assistant｜>",
    end="<｜end▁of▁sentence｜>",
    refuse=("</think>",),
    tools=_DEEPSEEK_TOOLS,
)

FAMILIES = {
    template.name: template
    for template in (
        HH, LLAMA2, MISTRAL_V1, MISTRAL_V3, LLAMA3, LLAMA3_1, LLAMA3_2, LLAMA4, CHATML, QWEN2_5,
        QWEN3, QWEN3_INSTRUCT, SMOLLM2, SMOLLM3, GEMMA, GEMMA3, DEEPSEEK_V3,
    )
}  # fmt: skip


def named(name: str) -> Template:
    """Returns the template of a family. Raises: ValueError for another name."""
    if name not in FAMILIES:
        raise ValueError(
            f"template must be one of {', '.join(FAMILIES)}; got {name!r} (template_families). "
            "Or read the model folder's own with jinja_template."
        )
    return FAMILIES[name]
