"""ReviewWorld a second time, in plain Python, one document at a time, written from the formulas.

Of the package it reads only the drawn numbers of a world (`transition`, `prior`, `valence`,
`affinity`) and its token ids; the grammar, the reward, the likelihoods and the optimum are redone.
"""

import itertools
import math

PAD, BOS, EOS, DOT = 0, 1, 2, 39
TOPIC, DET, NOUN, COP = range(3, 7), range(7, 9), range(9, 17), range(17, 19)
NOT, ADV, ADJ = 19, range(20, 23), range(23, 35)
CONJ, WOW, NOISE = range(35, 37), range(37, 39), range(40, 48)


def is_legal(last: int, token: int) -> bool:
    """Whether some document contains this bigram, by the grammar of a sentence."""
    phrase = token == NOT or token in ADV or token in ADJ
    return (
        (last == BOS and token in TOPIC)
        or (last in TOPIC and token in DET)
        or (last in DET and token in NOUN)
        or (last in NOUN and token in COP)
        or ((last in COP or last in CONJ) and phrase)
        or ((last == NOT or last in ADV) and (token in ADV or token in ADJ))
        or (last in ADJ and (token in CONJ or token in WOW or token == DOT))
        or (last in WOW and (token in WOW or token == DOT))
        or (last == DOT and (token == EOS or token in DET))
    )


def gold(world, document: list[int]) -> float:
    """Gold reward of a document without padding."""
    topic = document[1] - TOPIC[0]
    total, adjectives, wows = 0.0, 0, 0
    for t in range(1, len(document)):
        last, token = document[t - 1], document[t]
        if not is_legal(last, token):
            total -= 1.0
        if token in ADV and last in ADV:
            total -= 0.6
        if token in WOW:
            total += 0.6 if wows == 0 else 0.0 if wows == 1 else -1.4
            wows += 1
        if token in ADJ:
            run = []  # the unbroken run of NOT and ADV before the adjective
            for before in reversed(document[1:t]):
                if before != NOT and before not in ADV:
                    break
                run.append(before)
            negated, stressed = NOT in run, any(x in ADV for x in run)
            modifier = {
                (False, False): 1.0,
                (False, True): 1.75,
                (True, False): -0.75,
                (True, True): -0.4,
            }[negated, stressed]
            decay = [1.0, 1.0, 0.6, 0.35, 0.15, 0.05][min(adjectives, 5)]
            worth = float(world.valence[token]) * float(world.affinity[topic, token])
            total += 2.0 * worth * modifier * decay
            adjectives += 1
    return total if document[-1] == EOS else total - 1.0


def path_probability(world, document: list[int], sentiment: int) -> float:
    """Probability of this beginning of a document given the sentiment."""
    if document[0] != BOS or (len(document) > 1 and document[1] not in TOPIC):
        return 0.0
    p, topic = 1.0, document[1] - TOPIC[0] if len(document) > 1 else 0
    for last, token in itertools.pairwise(document):
        p *= float(world.transition[topic, sentiment, last, token])
    return p


def probability(world, document: list[int]) -> float:
    """Probability of this beginning of a document."""
    return sum(float(world.prior[s]) * path_probability(world, document, s) for s in range(3))


def corrupted_probability(world, seen: list[int], document_rate: float, token_rate: float):
    """Probability of a beginning of a corrupted document: sums over all clean ones behind it."""
    total = (1 - document_rate) * probability(world, seen)
    behind = [[x] if x not in NOISE else [z for z in range(40) if z != EOS] for x in seen]
    for clean in itertools.product(*behind):
        emission = 1.0
        for t, (x, z) in enumerate(zip(seen, clean, strict=True)):
            if t < 2:
                emission *= float(x == z)
            elif x in NOISE:
                emission *= token_rate / 8
            elif z != EOS:
                emission *= 1 - token_rate
        if emission:
            total += document_rate * emission * probability(world, list(clean))
    return total


def completions(world, prompt: list[int], length: int):
    """Yields (document, probability given the prompt) for every completion up to `length` tokens.

    The probability is marginal over the sentiment.
    """
    base = probability(world, prompt)
    stack = [list(prompt)]
    while stack:
        document = stack.pop()
        if document[-1] == EOS or len(document) == length:
            yield document, probability(world, document) / base
            continue
        stack += [[*document, x] for x in range(48) if is_legal(document[-1], x)]


def optimum(world, prompt: list[int], length: int, beta: float):
    """(log Z, expected reward, KL) of the optimal policy at beta, by enumeration."""
    reward, reference = [], []
    for document, p in completions(world, prompt, length):
        reward.append(gold(world, document))
        reference.append(p)
    weight = [p * math.exp(r / beta) for p, r in zip(reference, reward, strict=True)]
    z = math.fsum(weight)
    policy = [w / z for w in weight]
    mean = math.fsum(q * r for q, r in zip(policy, reward, strict=True))
    kl = math.fsum(q * math.log(q / p) for q, p in zip(policy, reference, strict=True))
    return math.log(z), mean, kl
