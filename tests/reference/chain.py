"""ChainWorld in plain Python, one row and one token at a time, written from its description."""

PAD, EOS, EQUALS, PLUS, TIMES, FIRST = 0, 1, 2, 3, 4, 5


def operations(prompt: list[int]) -> tuple[int, list[tuple[str, int]]]:
    """(starting number, [(sign, number), ...]) of a prompt's tokens, without padding."""
    assert prompt[-1] == EQUALS
    assert len(prompt) % 2 == 0
    pairs = [
        ({PLUS: "+", TIMES: "*"}[prompt[i]], prompt[i + 1] - FIRST)
        for i in range(1, len(prompt) - 1, 2)
    ]
    return prompt[0] - FIRST, pairs


def results(prompt: list[int], modulus: int) -> list[int]:
    """The numbers behind each operation."""
    number, pairs = operations(prompt)
    found = []
    for sign, other in pairs:
        number = (number + other if sign == "+" else number * other) % modulus
        found.append(number)
    return found


def is_right(row: list[int], length: int, modulus: int) -> bool:
    """Whether the first `length` tokens of a row are a prompt, its results and the end."""
    row = row[:length]
    end = row.index(EQUALS) + 1
    wanted = [FIRST + number for number in results(row[:end], modulus)] + [EOS]
    return row[end:] == wanted


def right_steps(prompt: list[int], answer: list[int], modulus: int) -> list[bool]:
    """Whether each number of an answer follows from the number before it."""
    number, pairs = operations(prompt)
    found = []
    for (sign, other), token in zip(pairs, answer, strict=False):
        wanted = (number + other if sign == "+" else number * other) % modulus
        number = token - FIRST
        found.append(number == wanted)
    return found
