"""Words of a text in any script, and the English ones that say nothing of a picture."""

import unicodedata

import regex

STOP_WORDS = frozenset(
    """
    a about above across after again against all almost along already also although always am
    among an and another any anybody anyone anything are around as at away back be became
    because become been before behind being below beneath beside besides between beyond both but
    by came can cannot come could did do does doing done down during each either else enough
    even ever every everybody everyone everything few for from further get gets getting give
    given go goes going gone got had has have having he her here hers herself him himself his
    how however i if in inside instead into is it its itself just keep kept least less let like
    made make makes making many may maybe me might mine more most much must my myself near
    neither never next no nobody none nor not nothing now of off often on once one only onto or
    other others our ours ourselves out outside over own per perhaps put quite rather really
    said same say says see seen several shall she should since so some somebody someone
    something still such take taken than that the their theirs them themselves then there these
    they thing things this those though through thus till to together too toward towards under
    until up upon us used using various very via was way we well were what whatever when where
    whether which while who whom whose why will with within without would yet you your yours
    yourself
    """.split()  # noqa: SIM905 (a list literal would take 200 lines)
)
"""English words that say nothing of what is in a picture."""

_TOKEN = regex.compile(r"[\p{L}\p{M}\p{N}]+(?:['\u2019][\p{L}\p{M}]+)?")
_POSSESSIVE = ("'s", "\u2019s")


def words_of(text: str) -> list[str]:
    """Returns the words of a text in lower case, without punctuation and English 's.

    >>> words_of("The dog's ice-cream: 2 BALLS!")
    ['the', 'dog', 'ice', 'cream', '2', 'balls']
    """
    tokens = _TOKEN.findall(unicodedata.normalize("NFC", text).lower())
    return [token[:-2] if token.endswith(_POSSESSIVE) else token for token in tokens]


def slug(name: str) -> str:
    """Returns a name as an id: its words with hyphens.

    >>> slug("Ice cream")
    'ice-cream'
    """
    return "-".join(words_of(name)) or "unnamed"
