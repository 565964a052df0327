"""Checks of the options that a user gives for prediction."""

from collections.abc import Mapping
from typing import Any

from netbuild.errors import NetbuildError


def refuse_options(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check that no option is given, and return an empty dict.

    Args:
        given: options by name.
        where: end of the message: "... has no effect <where>".

    Raises:
        NetbuildError: for the first option.
    """
    for name in given:
        raise NetbuildError(f"--{name.replace('_', '-')} has no effect {where}", hint="leave it out")
    return {}
