"""Sizes and rates for people."""


def size(count: float) -> str:
    """Bytes in binary units."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    place = 0
    while count >= 1024 and place < len(units) - 1:
        count /= 1024
        place += 1
    digits = 1 if place and count < 100 else 0
    return f"{count:,.{digits}f} {units[place]}"


def bits(rate: float) -> str:
    """Bytes per second as bits per second."""
    megabits = 8 * rate / 1e6
    if megabits >= 1_000:
        return f"{megabits / 1_000:,.1f} Gbit/s"
    return f"{megabits:,.0f} Mbit/s"
