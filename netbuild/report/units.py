"""Formats counts and bytes with units."""


def giga(count: float) -> str:
    """Format a count in units of 1e9, with enough digits that a positive count never reads 0.0."""
    value = count / 1e9
    if value == 0:
        return "0"
    if value >= 1:
        return f"{value:,.1f}"
    return f"{value:.3g}" if value >= 1e-4 else f"{value:.6f}".rstrip("0") if value >= 1e-6 else f"{value:.1e}"


def size(count: int | None) -> str:
    """Format bytes in decimal units."""
    if count is None:
        return "-"
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def short(count: int) -> str:
    """Format a count with three digits and a unit, as in 148k."""
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= scale * 0.9995:
            return f"{count / scale:#.3g}".rstrip(".") + unit
    return str(count)
