"""Answers to the shared IFEval rows: texts that models wrote elsewhere, as they are and changed so
that instructions of every kind are followed by some and not by others."""

import hashlib
import json

from tests.evals.suites import fakes

EACH = 6  # answers to a prompt


def pool() -> list[str]:
    texts = []
    for own in fakes.shared_rows("pandalm/pandalm.train.jsonl.gz"):
        texts += [own["response1"], own["response2"]]
    for own in fakes.shared_rows("instruct-pref-1100/instruct_pref.train.jsonl.gz"):
        texts.append(own["chosen"])
    for own in fakes.shared_rows("hh-rlhf/helpful-online.eval.jsonl.gz"):
        texts.append(own["chosen"].rpartition("\n\nAssistant:")[2].strip())
    return [text for text in map(str, texts) if text.strip()]


def towards(kind: str, own: dict, text: str) -> str:
    """The text changed towards an instruction, so that about half of all are followed."""
    count = next((x for x in own.values() if isinstance(x, int)), 0)
    said = {name: x for name, x in own.items() if isinstance(x, str)}
    listed = " ".join(x[0] if kind.endswith("words") else " ".join(x) for x in own.values()
                      if isinstance(x, list))  # fmt: skip
    changed = {
        "change_case:english_capital": text.upper(),
        "change_case:english_lowercase": text.lower(),
        "change_case:capital_word_frequency": text + " ONE TWO" * (count // 2),
        "startend:quotation": f'"{text}"',
        "startend:end_checker": f"{text}\n{said.get('end_phrase')}",
        "punctuation:no_comma": text.replace(",", ""),
        "combination:two_responses": f"{text}\n******\n{text[::-1]}",
        "combination:repeat_prompt": f"{said.get('prompt_to_repeat')}\n\n{text}",
        "keywords:existence": f"{text} {listed}",
        "keywords:frequency": f"{text} " + f"{said.get('keyword')}, " * count,
        "keywords:forbidden_words": f"{text} {listed}",
        "detectable_content:postscript": f"{text}\n\n{said.get('postscript_marker')} {text[:40]}",
        "detectable_content:number_placeholders": text + " [name]" * count,
        "detectable_format:title": f"<<{text[:30]}>>\n\n{text}",
        "detectable_format:json_format": "```json\n" + json.dumps({"text": text}) + "\n```",
        "detectable_format:constrained_response": f"My answer is yes. {text}",
        "detectable_format:number_bullet_lists": text + "\n* a point" * count,
        "detectable_format:number_highlighted_sections": text + " *a part* and **b**" * count,
        "detectable_format:multiple_sections": "\n".join(
            f"{said.get('section_spliter')} {i + 1}\n{text[:80]}" for i in range(count)),
        "length_constraints:number_paragraphs": "\n***\n".join([text[:200]] * count),
        "length_constraints:nth_paragraph_first_word": "\n\n".join(
            [f"{said.get('first_word')} {text[:60]}"] * (own.get("num_paragraphs") or 1)),
    }  # fmt: skip
    return changed.get(kind, text)


def answers() -> list[tuple[dict, list[str]]]:
    """(row, answers) of every shared row."""
    texts, found = pool(), []
    for row in fakes.shared_rows("ifeval/ifeval.eval.jsonl.gz"):
        own = []
        for number in range(EACH):
            draw = hashlib.sha256(f"{row['key']} {number}".encode()).digest()
            text = texts[int.from_bytes(draw[:8], "big") % len(texts)]
            if number % 2 and draw[8] % 3 == 0:  # a longer one
                text += "\n\n" + texts[int.from_bytes(draw[9:17], "big") % len(texts)]
            if number % 2:
                for kind, kwargs in zip(row["instruction_id_list"], row["kwargs"], strict=True):
                    text = towards(kind, kwargs, text)
            own.append(text)
        found.append((row, own))
    return found
