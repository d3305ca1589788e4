"""Query strings as the SDK writes them: lists and ranges in brackets, ``group_by[]=model&effective_at[gte]=0``."""

import re
from collections.abc import Sequence

from django.http import QueryDict

from common.errors import HoneError

MAX_VALUES = 100
"""Of one list."""
MAX_SECONDS = 253_402_300_799
"""The last second of the year 9999."""


def texts(query: QueryDict, name: str) -> list[str]:
    """The values of a list, ``name[]=a&name[]=b``, in their order; empty when it is not given."""
    values = [*query.getlist(f"{name}[]"), *query.getlist(name)]
    if len(values) > MAX_VALUES:
        raise HoneError("invalid_value", f"'{name}' takes at most {MAX_VALUES} values", param=name)
    if any("\0" in value for value in values):
        raise HoneError("invalid_value", f"'{name}' holds a character that no value has", param=name)
    return values


def choices(query: QueryDict, name: str, allowed: tuple[str, ...]) -> list[str]:
    """As :func:`texts`, of which each must be one of ``allowed``; without repetitions."""
    values = list(dict.fromkeys(texts(query, name)))
    unknown = next((value for value in values if value not in allowed), None)
    if unknown is not None:
        raise HoneError("invalid_value", f"'{name}' takes {', '.join(allowed)}, not '{unknown}'", param=name)
    return values


def choice(query: QueryDict, name: str, allowed: Sequence[str]) -> str | None:
    """One word of ``allowed``; None when it is not given."""
    text = query.get(name)
    if text is not None and text not in allowed:
        raise HoneError("invalid_value", f"'{name}' must be one of {', '.join(allowed)}, not '{text}'", param=name)
    return text


def pairs(query: QueryDict, name: str) -> dict[str, str] | None:
    """The pairs of a mapping, ``name[key]=text``; empty when it is not given, None when nothing can have them."""
    found = {
        key.removeprefix(f"{name}[").removesuffix("]"): str(text)
        for key, text in query.items()
        if key.startswith(f"{name}[") and key.endswith("]")
    }
    return None if any("\0" in text for text in (*found, *found.values())) else found


def flag(query: QueryDict, name: str) -> bool | None:
    """``true`` or ``false``; None when it is not given."""
    text = query.get(name)
    if text is None:
        return None
    if text not in ("true", "false"):
        raise HoneError("invalid_value", f"'{name}' must be 'true' or 'false'", param=name)
    return text == "true"


def seconds(query: QueryDict, name: str) -> int | None:
    """A moment in seconds since 1970; None when it is not given."""
    text = query.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,12}", text, re.ASCII) or int(text) > MAX_SECONDS:
        raise HoneError("invalid_value", f"'{name}' must be a moment in seconds since 1970", param=name)
    return int(text)
