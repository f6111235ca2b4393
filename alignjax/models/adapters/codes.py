"""Numbers as codes of few bits: blocks that share a scale, computed on the host.

Host arithmetic gives the same bits on every machine, whatever the model runs on.
"""

import math

import numpy as np

# NormalFloat of 4 bits: quantiles of a normal distribution between -1 and 1, with a zero (Dettmers
# et al. 2023, appendix E).
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip
SCALES = 256  # scales that share one of their own under double quantisation (section 3)


def dynamic_map() -> np.ndarray:
    """[256] fp32, ascending: the code book of signed numbers between -1 and 1 in 8 bits.

    Seven decades; of the one that ends at 10^-k the middles of 2^(6-k) equal parts of its upper
    nine tenths, with both signs; and 0 and 1. Reference: Dettmers et al. 2022, section 2.1 (dynamic
    tree quantisation).
    """
    values = [0.0, 1.0]
    for decade in range(7):
        ends = np.linspace(0.1, 1, 2**decade + 1, dtype=np.float32)
        middles = (ends[:-1] + ends[1:]) / np.float32(2)
        parts = (np.float32(10.0 ** (decade - 6)) * middles).tolist()
        values += [*parts, *(-x for x in parts)]
    return np.array(sorted(values), np.float32)


def nearest(book: np.ndarray, x: np.ndarray) -> np.ndarray:
    """uint8, the place of each number's nearest code; the lower of two at one distance."""
    middles = ((book[:-1].astype(np.float64) + book[1:]) / 2).astype(np.float32)
    return np.searchsorted(middles, x, side="left").astype(np.uint8)


def int8(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(codes int8, scales fp32): code = x / scale to the nearest integer, scale = max |x| / 127.

    blocks: [N, block, M]; a block is of one column. Codes are alike, scales are [N, M].
    |error| <= max |x| / 254.
    """
    scales = np.abs(blocks).max(axis=1) / np.float32(127)
    return np.rint(_divided(blocks, scales)).clip(-127, 127).astype(np.int8), scales


def nf4(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(codes uint8, scales fp32): the place in NF4 nearest to x / scale, scale = max |x|.

    blocks: [N, block, M]. Codes are [N, block / 2, M], two in a byte, the first in its upper half;
    scales [N, M]. |error| <= 0.152 max |x|, half of the widest step.
    """
    scales = np.abs(blocks).max(axis=1)
    places = nearest(np.array(NF4, np.float32), _divided(blocks, scales))
    return places[:, ::2] << 4 | places[:, 1::2], scales


def double(scales: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(codes uint8 [C, 256], scales fp32 [C], offset fp32) of one matrix's scales [N, M].

    scale = offset + book[code] s, with the offset their mean and s the largest of |scale - offset|
    of 256; in the order [M, N], filled up with zeros.
    """
    flat = np.ascontiguousarray(scales.T).reshape(-1)
    offset = np.asarray(flat.mean(dtype=np.float32))
    left = np.zeros((math.ceil(flat.size / SCALES), SCALES), np.float32)
    left.reshape(-1)[: flat.size] = flat - offset
    own = np.abs(left).max(axis=1)
    return nearest(dynamic_map(), _divided(left[:, :, None], own[:, None])[..., 0]), own, offset


def _divided(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Blocks over their scales; a block of zeros stays one."""
    return blocks / np.where(scales > 0, scales, np.float32(1))[:, None]
