"""The one exception that means: the user can fix this, and one line says how."""


class UserError(ValueError):
    """A mistake in what was asked for: shown as one line, exit status 2, no traceback."""


def check_one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise UserError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise UserError(f"{name}={value!r} is not known; use one of: {', '.join(allowed)}")


def check_range(
    name: str,
    value: float,
    low: float,
    high: float = float("inf"),
    *,
    low_open: bool = False,
    high_open: bool = False,
) -> None:
    """Raise UserError unless `low <= value <= high` (bounds excluded where open). NaN is outside every range."""
    inside = (value > low if low_open else value >= low) and (value < high if high_open else value <= high)
    if not inside:
        left, right = "(" if low_open else "[", ")" if high_open or high == float("inf") else "]"
        raise UserError(f"{name}={value!r} is outside {left}{low:g}, {high:g}{right}")
