"""English for a demo description: several sentence patterns and synonyms, so that words alone do not match clips."""

import random
from dataclasses import replace

from features.corpora.demo_scenes import Description
from features.corpora.demo_vocabulary import (
    MOTION_WORDS,
    NOUNS,
    OPPOSITE,
    RELATION_WORDS,
    SIZE_WORDS,
    TEXTURE_WORDS,
)

Facts = dict[str, str]


def caption(description: Description, rng: random.Random) -> str:
    """One sentence that states all facts of the description."""
    mentions = [dict(facts) for facts in description.mentions]
    if len(mentions) == 1:
        return _single(mentions[0], rng)
    relation = description.relation
    if relation is None:
        return _pair(mentions[0], mentions[1], rng)
    if rng.random() < 0.35:  # "A above B" and "B below A" say the same
        mentions, relation = mentions[::-1], OPPOSITE[relation]
    return _related(mentions[0], mentions[1], rng.choice(RELATION_WORDS[relation]), rng)


def shortened(description: Description, rng: random.Random) -> Description:
    """A description that leaves out some facts, as human captions do: true, but not sufficient to find the clip."""
    kept = tuple(
        tuple(pair for pair in facts if pair[0] in ("shape", "colour") or rng.random() < 0.6)
        for facts in description.mentions
    )
    if len(kept) > 1 and rng.random() < 0.25:
        return Description(kept[:1], None)
    return replace(description, mentions=kept)


def noun_phrase(facts: Facts, rng: random.Random) -> str:
    """The object in words, e.g. `a large striped red circle`, in one of several orders and choices of synonym."""
    words = []
    if "size" in facts:
        words.append(rng.choice(SIZE_WORDS[facts["size"]]))
    pair = [facts["colour"]]
    if "texture" in facts:
        pair.append(rng.choice(TEXTURE_WORDS[facts["texture"]]))
        rng.shuffle(pair)
    words += [*pair, rng.choice(NOUNS[facts["shape"]])]
    article = "an" if words[0][0] in "aeiou" else "a"
    return " ".join((article, *words))


def _motion(facts: Facts, rng: random.Random) -> tuple[str, str] | None:
    return rng.choice(MOTION_WORDS[facts["motion"]]) if "motion" in facts else None


def _single(facts: Facts, rng: random.Random) -> str:
    thing, motion = noun_phrase(facts, rng), _motion(facts, rng)
    if motion is None:
        return rng.choice((f"{thing}", f"there is {thing}", f"a video of {thing}", f"we can see {thing}"))
    does, doing = motion
    return rng.choice(
        (f"{thing} {does}", f"there is {thing} that {does}", f"a video of {thing} {doing}", f"{thing} is {doing}")
    )


def _clause(facts: Facts, rng: random.Random) -> tuple[str, str]:
    """(noun phrase, "that spins" or empty)."""
    motion = _motion(facts, rng)
    return noun_phrase(facts, rng), "" if motion is None else rng.choice((f" that {motion[0]}", f" {motion[1]}"))


def _pair(first: Facts, second: Facts, rng: random.Random) -> str:
    (a, a_tail), (b, b_tail) = _clause(first, rng), _clause(second, rng)
    joint = rng.choice((" and ", " while there is ", " together with ", " with "))
    return f"{a}{a_tail}{joint}{b}{b_tail}"


def _related(first: Facts, second: Facts, relation: str, rng: random.Random) -> str:
    (a, a_tail), (b, b_tail) = _clause(first, rng), _clause(second, rng)
    motion = _motion(first, rng)
    patterns = [
        f"{a}{a_tail} is {relation} {b}{b_tail}",
        f"{relation} {b}{b_tail} there is {a}{a_tail}",
        f"{a}{a_tail}, {relation} {b}{b_tail}",
    ]
    if motion is not None:
        patterns.append(f"{a} {motion[0]} and is {relation} {b}{b_tail}")
    return rng.choice(patterns)
