"""Published matrix rates of accelerators, for shares of a machine's peak."""

import jax

# bf16 FLOP/s of one device, by a part of its `device_kind`; vendors' public pages.
FLOPS = {
    "v5 lite": 197e12,
    "v5e": 197e12,
    "v6 lite": 918e12,
    "v6e": 918e12,
    "v5p": 459e12,
    "v5": 459e12,
    "v4": 275e12,
    "7x": 1153.5e12,
    "h200": 989e12,
    "h100": 989e12,
    "a100": 312e12,
}


def flops(device_kind: str) -> float:
    """FLOP/s of a device of this kind; 0 where it is not known, as for CPUs."""
    name = device_kind.lower()
    return next((rate for part, rate in FLOPS.items() if part in name), 0.0)


def here() -> float:
    """FLOP/s of all devices of this run; 0 where they are not known."""
    return flops(jax.devices()[0].device_kind) * jax.device_count()
