"""Records what transformers' apply_chat_template gives with the families' published templates.

The templates' texts are read where they are installed and are not stored: from trl, from
transformers (Llama 4), from a GGUF file (SmolLM2), and from a folder of <family>.jinja files with
the texts of the tokenizer_config.json of Llama-2-7b-chat, Mistral-7B-Instruct-v0.2 and v0.3,
OpenHermes-2.5-Mistral (ChatML) and SmolLM3-3B, each compared with copies in public repositories.
Stored are the strings, the ids under small tokenizers, the versions and the sha256 of every
template.

    python -m tests.text.record_templates tokenizers     # where alignjax is installed
    PYTHONPATH=. python -m tests.text.record_templates FOLDER SMOLLM2_JINJA   # with transformers
"""

import hashlib
import importlib.metadata
import json
import pathlib
import sys

from tests.text import template_cases as cases

_TRL = {
    "llama3": "llama3", "llama3.1": "llama3_1", "llama3.2": "llama3_2", "qwen2.5": "qwen2_5",
    "qwen3": "qwen3", "qwen3-instruct": "qwen3_instruct_2507", "gemma": "gemma",
    "gemma3": "gemma3", "deepseek-v3": "deepseekv3",
}  # fmt: skip


def write_tokenizers() -> None:
    from alignjax.text import template_families
    from tests.text import small_tokenizers as small

    names = {name for family in template_families.FAMILIES.values() for name in family.needs}
    tools = [family.tools for family in template_families.FAMILIES.values() if family.tools]
    names |= {name for style in tools for name in style.needs}
    names |= {"<bos>", "<eos>", "<|python_start|>", "<|python_end|>"}
    ordinary = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>")
    source = json.loads(small.byte_level(tuple(sorted(names)), (*ordinary, "</tool_response>")))
    cases.TOKENIZERS["bytes"].write_text(json.dumps(source, ensure_ascii=True))
    for kind, normalizer in (("spaces", True), ("start", False)):
        model = small.sentencepiece_model()
        source = json.loads(small.json_of(model, normalizer=normalizer, scheme="first"))
        cases.TOKENIZERS[kind].write_text(json.dumps(source, ensure_ascii=True))


def source_of(family: str, folder: pathlib.Path, smollm2: pathlib.Path) -> str:
    if family in _TRL:
        from trl import chat_template_utils

        root = pathlib.Path(chat_template_utils.__file__).parent / "chat_templates"
        return (root / f"{_TRL[family]}.jinja").read_text()
    if family == "llama4":
        from transformers.models.llama4 import processing_llama4

        return processing_llama4.chat_template
    if family == "smollm2":
        return smollm2.read_text()
    return (folder / f"{family}.jinja").read_text()


def record(family: str, source: str) -> dict:
    import transformers

    kind, bos, eos, names = cases.FAMILIES[family]
    digest = hashlib.sha256(source.encode()).hexdigest()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(cases.TOKENIZERS[kind]), bos_token=bos, eos_token=eos
    )
    options = {"enable_thinking": False} if family in ("qwen3", "smollm3") else {}
    if family == "smollm3":  # it asks the clock by name
        source = source.replace('strftime_now("%d %B %Y")', "date_string")
    tokenizer.chat_template = source
    if family in cases.DATED:
        options["date_string"] = cases.DATE
    rows = {}
    for name in names:
        messages, tools = cases.CASES[name]
        last = [i for i, message in enumerate(messages) if message[0] == "assistant"][-1]
        options["xml_tools" if family == "smollm3" else "tools"] = tools or None
        whole, prompt = cases.openai(messages, family), cases.openai(messages[:last], family)
        rendered = []
        for part, generate in ((whole, False), (prompt, True)):
            text = tokenizer.apply_chat_template(
                part, tokenize=False, add_generation_prompt=generate, **options
            )
            ids = tokenizer.apply_chat_template(
                part, tokenize=True, add_generation_prompt=generate, return_dict=False, **options
            )
            rendered.append({"text": text, "ids": ids})
        rows[name] = {"whole": rendered[0], "prompt": rendered[1]}
    return {"sha256": digest, "cases": rows}


def main(folder: str, smollm2: str) -> None:
    sources = {
        family: source_of(family, pathlib.Path(folder), pathlib.Path(smollm2))
        for family in cases.FAMILIES
    }
    versions = {name: importlib.metadata.version(name) for name in ("transformers", "trl")}
    found = {family: record(family, source) for family, source in sources.items()}
    path = cases.GOLDENS / "templates.json"
    path.write_text(json.dumps({"versions": versions, "families": found}, separators=(",", ":")))
    print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    if sys.argv[1] == "tokenizers":
        write_tokenizers()
    else:
        main(*sys.argv[1:])
