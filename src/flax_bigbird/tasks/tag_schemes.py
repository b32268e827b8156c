"""Detects and checks the scheme in which tags mark entities, such as IOB2.

A tag of a scheme is `O`, outside of entities, or a prefix and the type of the entity, as `B-PER`.
The prefix says where in the entity the word is: `B` begins, `I` is inside, `E` or `L` ends it, and
`S` or `U` is an entity of one word. Tags such as parts of speech have no scheme.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from flax_bigbird.data.errors import OptionError

NO_SCHEME = "none"

OUTSIDE = "O"

_PREFIXES = {"IOB1": "IB", "IOB2": "IB", "IOBES": "IBES", "BILOU": "IBLU"}
_TAG = re.compile(r"([BIESLU])(?:-(.*))?", re.DOTALL)


def detect_tag_scheme(sequences: Iterable[Sequence[str]]) -> str:
    """Returns the scheme of tags, one of `task_options.TAG_SCHEMES`.

    IOB1 and IOB2 have the same prefixes. They differ in the first word of an entity that does not
    follow another one of its type: it is tagged `I` in IOB1 and `B` in IOB2. The majority decides.

    Args:
      sequences: The tags of each document.
    """
    prefixes: set[str] = set()
    starts: Counter[str] = Counter()
    for tags in sequences:
        previous = None
        for tag in tags:
            entity = _parse(tag)
            if entity is None and tag != OUTSIDE:
                return NO_SCHEME
            if entity is not None:
                prefixes.add(entity[0])
                if previous is None or previous[1] != entity[1]:
                    starts[entity[0]] += 1
            previous = entity
    return _scheme_of_prefixes(prefixes, "IOB1" if starts["I"] > starts["B"] else "IOB2")


def tag_scheme_of_names(names: Iterable[str]) -> str:
    """Returns the scheme that the names of tags suggest, if there are no tagged documents.

    Names alone do not distinguish IOB1 from IOB2. The scheme is IOB1 if an entity type has a tag
    with `I` and none with `B`.
    """
    entities = [_parse(name) for name in names if name != OUTSIDE]
    if None in entities:
        return NO_SCHEME
    pairs = {entity for entity in entities if entity is not None}
    types = {"B": set(), "I": set()} | {prefix: set() for prefix, _ in pairs}
    for prefix, entity_type in pairs:
        types[prefix].add(entity_type)
    iob = "IOB2" if types["I"] <= types["B"] else "IOB1"
    return _scheme_of_prefixes({prefix for prefix, _ in pairs}, iob)


def check_tag_scheme(scheme: str, names: Iterable[str]) -> None:
    """Checks that tags can be those of a scheme.

    Raises:
      OptionError: if a tag has a prefix that the scheme does not have, or none.
    """
    if scheme == NO_SCHEME:
        return
    prefixes = _PREFIXES[scheme]
    for name in names:
        entity = _parse(name)
        if name != OUTSIDE and (entity is None or entity[0] not in prefixes):
            raise OptionError(
                f"tag_scheme={scheme} needs tags that are {OUTSIDE} or begin with one of "
                f"{', '.join(f'{prefix}-' for prefix in prefixes)}; got {name!r}: give the scheme "
                f"of the tags, or {NO_SCHEME}"
            )


def group_words(tags: Sequence[str], scheme: str) -> list[tuple[str, int, int]]:
    """Returns the entities that tags mark, as the pipeline of `transformers` groups them.

    An entity is a run of words of one type. A word that begins an entity, or follows one that ends
    an entity, starts another one. Tags without a scheme are types.

    Args:
      tags: The tags of the words.
      scheme: The scheme of the tags.

    Returns:
      The type, the first word, and one past the last word of each entity.
    """
    entities: list[tuple[str, int, int]] = []
    previous = None
    for word, tag in enumerate(tags):
        current = None
        if tag != OUTSIDE:
            current = (_parse(tag) if scheme != NO_SCHEME else None) or ("I", tag)
            continues = (
                previous is not None
                and previous[1] == current[1]
                and current[0] not in "BSU"
                and previous[0] not in "ELSU"
            )
            first = entities.pop()[1] if continues else word
            entities.append((current[1], first, word + 1))
        previous = current
    return entities


def _parse(tag: str) -> tuple[str, str] | None:
    """Returns the prefix of a tag and the type of the entity; None if the tag has no prefix."""
    match = _TAG.fullmatch(tag)
    return (match[1], match[2] or "") if match else None


def _scheme_of_prefixes(prefixes: set[str], iob: str) -> str:
    """Returns the scheme of these prefixes, which is `iob` for those of IOB1 and IOB2."""
    if not prefixes:
        return NO_SCHEME
    if prefixes <= {"B", "I"}:
        return iob
    for scheme, single in (("IOBES", "S"), ("BILOU", "U")):
        if prefixes <= set(_PREFIXES[scheme]) and prefixes & {"B", single}:
            return scheme
    return NO_SCHEME
