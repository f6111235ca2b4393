"""Conversations on which templates are recorded and compared; plain data, no third-party import."""

import json
import pathlib

GOLDENS = pathlib.Path(__file__).parent / "goldens"
# "spaces" puts a space before a text and after control tokens, "start" before a text only
TOKENIZERS = {kind: GOLDENS / f"template-{kind}.json" for kind in ("bytes", "spaces", "start")}
DATE = "03 Feb 2025"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a day, in °C.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    },
    {"type": "function", "function": {"name": "now", "description": "Time", "parameters": {}}},
]
SYSTEM = ("system", "Be kind.\nAnswer in one line.")
TALK = [
    ("user", "How do I keep a garden green? 12 days, 3.5 l"),
    ("assistant", "Water early.\n\n- cover the soil\n- été, 你好"),
    ("user", "And then?\n\n\tcode()\n"),
    ("assistant", "Wait 24 hours."),
]
PADDED = [
    ("user", "  two spaces before, a line after \n"),
    ("assistant", " one space before, two after  "),
    ("user", "short"),
    ("assistant", "Yes"),
]
CALLS = [
    ("user", "Weather in Oslo?"),
    ("assistant", "", [("weather", {"city": "Oslo", "days": [1, 2]})]),
    ("tool", '{"t": -3}'),
    ("assistant", "It is -3 °C."),
]
TWO_CALLS = [
    ("user", "Both?"),
    ("assistant", "Let me look.", [("weather", {"city": "Ål"}), ("now", {})]),
    ("tool", "rain"),
    ("tool", "12:00"),
    ("assistant", "Rain at 12:00."),
    ("user", "Thanks"),
    ("assistant", "Bye"),
]
CASES = {
    "talk": (TALK, ()),
    "system": ([SYSTEM, *TALK], ()),
    "padded": (PADDED, ()),
    "padded system": ([("system", " odd \n"), *PADDED], ()),
    "one": (TALK[:2], ()),
    "tools": (CALLS, TOOLS),
    "system and tools": ([SYSTEM, *CALLS], TOOLS),
    "two calls": (TWO_CALLS, TOOLS),
    "calls without a list": (CALLS, ()),
    "first padded, tools": ([("user", "  spaced  "), ("assistant", "Yes")], TOOLS),
    "calls of a row": (TWO_CALLS, ()),
}
# family -> (tokenizer, bos, eos, cases)
_PLAIN = ("talk", "padded", "one")
_SYSTEM = (*_PLAIN, "system", "padded system")
_ONE_CALL = (*_SYSTEM, "tools", "system and tools", "calls without a list", "first padded, tools")
_TOOLS = (*_ONE_CALL, "two calls")
# the family's Jinja drops the system's text from all but prompts that end with a user turn
_MISTRAL = (*_PLAIN, "system", "tools", "calls without a list", "first padded, tools", "two calls")
_UNLISTED = (*_SYSTEM, "calls without a list", "calls of a row")
FAMILIES = {
    "llama2": ("spaces", "<s>", "</s>", _SYSTEM),
    "mistral-v1": ("start", "<s>", "</s>", _SYSTEM),
    "mistral-v3": ("bytes", "<s>", "</s>", _MISTRAL),
    "llama3": ("bytes", "<|begin_of_text|>", "<|eot_id|>", _SYSTEM),
    "llama3.1": ("bytes", "<|begin_of_text|>", "<|eot_id|>", _ONE_CALL),
    "llama3.2": ("bytes", "<|begin_of_text|>", "<|eot_id|>", _ONE_CALL),
    "llama4": ("bytes", "<|begin_of_text|>", "<|eot|>", _TOOLS),
    "chatml": ("bytes", "<s>", "<|im_end|>", _SYSTEM),
    "qwen2.5": ("bytes", None, "<|im_end|>", _TOOLS),
    "qwen3": ("bytes", None, "<|im_end|>", _TOOLS),
    "qwen3-instruct": ("bytes", None, "<|im_end|>", _TOOLS),
    "smollm2": ("bytes", "<|im_start|>", "<|im_end|>", _SYSTEM),
    "smollm3": ("bytes", None, "<|im_end|>", _TOOLS),
    "gemma": ("bytes", "<bos>", "<eos>", _PLAIN),
    "gemma3": ("bytes", "<bos>", "<eos>", _SYSTEM),
    "deepseek-v3": ("bytes", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", _UNLISTED),
}
DATED = ("llama3.1", "llama3.2", "smollm3")


def written_call(name: str, arguments: dict) -> str:
    """A call as the text of a turn."""
    body = f'{{"name": "{name}", "arguments": {json.dumps(arguments, ensure_ascii=False)}}}'
    return f"<tool_call>\n{body}\n</tool_call>"


def call_id(number: int) -> str:
    """The id of a conversation's call, counted from 0."""
    return f"call{number:05d}"


def openai(messages, family: str = "") -> list[dict]:
    """The conversation as the dictionaries that Jinja templates read.

    DeepSeek's takes arguments as text. SmolLM3's writes no calls, but those in a text.
    """
    found, calls_made, answered = [], 0, 0
    for role, text, *calls in messages:
        message = {"role": role, "content": text}
        if calls and family == "smollm3":
            written = [written_call(*call) for call in calls[0]]
            message["content"] = "\n".join([text] * bool(text) + written)
        elif calls:
            message["tool_calls"] = [
                {
                    "type": "function",
                    "id": call_id(calls_made + number),
                    "function": {
                        "name": name,
                        "arguments": json.dumps(arguments, ensure_ascii=False)
                        if family == "deepseek-v3"
                        else arguments,
                    },
                }
                for number, (name, arguments) in enumerate(calls[0])
            ]
            calls_made += len(calls[0])
        if role == "tool":
            message["tool_call_id"] = call_id(answered)
            answered += 1
        found.append(message)
    return found


def goldens() -> dict:
    return json.loads((GOLDENS / "templates.json").read_text())
