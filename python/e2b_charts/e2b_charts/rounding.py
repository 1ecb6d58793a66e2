"""Takes the noise of binary fractions off coordinates that matplotlib computed."""

from decimal import Decimal, localcontext
from typing import Any

_DIGITS = 8


def rounded(number: Any) -> float:
    """Rounded to eight digits for numbers near one, to fewer for greater and more for smaller ones."""
    exact = Decimal(str(float(number)))
    if not exact.is_finite():
        return float(exact)
    with localcontext() as context:
        context.prec = max(1, _DIGITS - exact.adjusted())
        return float(+exact)
