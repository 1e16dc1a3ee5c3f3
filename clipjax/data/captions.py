"""Which caption a sample sees: one place, or several with probabilities."""

import contextlib
import functools
import json
from collections.abc import Mapping, Sequence

from clipjax.data.decode import BadSampleError


@functools.cache
def caption_places(caption: str) -> tuple[tuple[str, float], ...]:
    """Returns the places that `data.caption` names, with their probabilities.

    >>> caption_places("txt")
    (('txt', 1.0),)
    >>> caption_places("txt:3 json.captions")
    (('txt', 0.75), ('json.captions', 0.25))
    """
    pairs = [place.partition(":")[::2] for place in caption.split()]
    weights = [float(weight or 1) for _, weight in pairs]
    total = sum(weights)
    return tuple((place, weight / total) for (place, _), weight in zip(pairs, weights, strict=True))


def caption_members(caption: str) -> tuple[str, ...]:
    """Returns the suffixes of the members that hold the captions.

    >>> caption_members("json.captions txt json.name"), caption_members("txt")
    (('json', 'txt'), ('txt',))
    """
    return tuple(dict.fromkeys(place.partition(".")[0] for place, _ in caption_places(caption)))


def choose_caption(
    member: Mapping[str, bytes], caption: str, draws: Sequence[float] = (0.0, 0.0)
) -> str:
    """Returns the caption of a sample.

    Args:
        member: the files of the sample.
        caption: "txt", "json.FIELD" (a text or a list of texts), or several of them, each with a
            weight after a colon.
        draws: two numbers in [0, 1): the first picks of a list, the second the place. Where that
            place has no caption, the following ones are asked.

    Raises:
        BadSampleError: if there is none.
    """
    places = caption_places(caption)
    first, left = 0, draws[1]
    while first < len(places) - 1 and left >= places[first][1]:
        left -= places[first][1]
        first += 1
    problem: BadSampleError | None = None
    for place, _ in (*places[first:], *places[:first]):
        try:
            return _caption_at(member, place, draws[0])
        except BadSampleError as error:
            problem = problem or error
    assert problem is not None
    raise problem


def every_caption(member: Mapping[str, bytes], caption: str) -> list[str]:
    """Returns all captions that `choose_caption` may give for a sample; none if it cannot be used.

    >>> every_caption({"txt": b"a", "json": b'{"c": ["b", "", "d"]}'}, "txt:3 json.c")
    ['a', 'b', 'd']
    """
    found = []
    for place, _ in caption_places(caption):
        count = _num_at(member, place)
        for number in range(count):
            with contextlib.suppress(BadSampleError):
                found.append(_caption_at(member, place, (number + 0.5) / count))
    return found


def _num_at(member: Mapping[str, bytes], where: str) -> int:
    kind, _, field = where.partition(".")
    try:
        found = json.loads(member["json"])[field] if kind == "json" else ""
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return 0
    return len(found) if isinstance(found, list) else 1


def _caption_at(member: Mapping[str, bytes], where: str, draw: float) -> str:
    kind, _, field = where.partition(".")
    try:
        if kind == "txt":
            text = member["txt"].decode()
        else:
            found = json.loads(member["json"])[field]
            text = found[int(draw * len(found))] if isinstance(found, list) else found
            text = text.encode().decode() if isinstance(text, str) else text  # no lone surrogates
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise BadSampleError("no caption", f"{where}: {type(error).__name__}: {error}") from error
    if not isinstance(text, str) or not text.strip():
        raise BadSampleError("no caption", f"{where} is empty")
    return text
