"""What happens in each demo clip: objects, their looks, motion and places, decided before a pixel is drawn.

A *look* is everything a caption can say of one object; a *scene* gives looks a place and a path. Clips come in groups
that share all described facts but one (a colour, a motion, a relation ...), so that retrieval must read whole captions.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations

from features.corpora.demo_vocabulary import (
    COLOURS,
    MOTIONS,
    OPPOSITE,
    RADIUS,
    RELATIONS,
    SHAPES,
    SIZES,
    SPINNING_SHAPES,
    TEXTURES,
)

Point = tuple[float, float]
FACTS = ("size", "texture", "colour", "shape", "motion")
LAYOUT_TRIES = 60
STATED_GAP = 0.12  # a relation is stated only if the centres stay this far apart (fraction of the side) all the time
OVERLAP = 0.9  # centres stay at least this share of the summed radii apart: objects may touch, never hide one another


class SceneSearchError(ValueError):
    """No further scene fits: more clips were asked for than the demo world can tell apart by their captions."""


@dataclass(frozen=True)
class Look:
    """Facts about one object. `size` is empty where the object grows or shrinks."""

    shape: str
    colour: str
    texture: str
    size: str
    motion: str


@dataclass(frozen=True)
class SceneObject:
    """A look with its path: linear from `start` to `end`; unit = the frame's side, origin top left."""

    look: Look
    start: Point
    end: Point
    radius_start: float
    radius_end: float
    angle: float  # radians, at the first frame
    turns: float  # full turns from the first to the last frame

    def centre(self, t: float) -> Point:
        return (
            self.start[0] + t * (self.end[0] - self.start[0]),
            self.start[1] + t * (self.end[1] - self.start[1]),
        )

    def radius(self, t: float) -> float:
        return self.radius_start + t * (self.radius_end - self.radius_start)


@dataclass(frozen=True)
class Scene:
    objects: tuple[SceneObject, ...]
    background_seed: int


@dataclass(frozen=True)
class Description:
    """What a caption says: (fact, value) pairs of each mentioned object, relation of the first to the second."""

    mentions: tuple[tuple[tuple[str, str], ...], ...]
    relation: str | None


@dataclass(frozen=True)
class DescribedScene:
    scene: Scene
    description: Description


def gap(relation: str, first: SceneObject, second: SceneObject) -> float:
    """Smallest signed distance of the centres along the relation's axis; > 0 where the relation holds all the time.

    Both paths are linear in time, so the extremes are at the ends.
    """
    axis = 0 if relation in ("left", "right") else 1
    sign = 1.0 if relation in ("left", "above") else -1.0
    return min(sign * (second.centre(t)[axis] - first.centre(t)[axis]) for t in (0.0, 1.0))


def holds(description: Description, scene: Scene) -> bool:
    """Whether the description is true of some objects of the scene (relations read generously: any gap counts)."""
    for chosen in permutations(scene.objects, len(description.mentions)):
        if not all(
            getattr(item.look, fact) == value
            for item, facts in zip(chosen, description.mentions)
            for fact, value in facts
        ):
            continue
        if description.relation is None or gap(description.relation, chosen[0], chosen[1]) > 0:
            return True
    return False


def random_look(rng: random.Random) -> Look:
    shape = rng.choice(SHAPES)
    motion = rng.choice(MOTIONS if shape in SPINNING_SHAPES else [m for m in MOTIONS if m != "spin"])
    size = "" if motion in ("grow", "shrink") else rng.choice(SIZES)
    return Look(shape, rng.choice(list(COLOURS)), rng.choice(TEXTURES), size, motion)


def _radii(look: Look, rng: random.Random) -> tuple[float, float]:
    small, large = rng.uniform(*RADIUS["small"]), rng.uniform(*RADIUS["large"])
    if look.motion == "grow":
        return small, large
    if look.motion == "shrink":
        return large, small
    radius = small if look.size == "small" else large
    return radius, radius


def _place(look: Look, rng: random.Random) -> SceneObject:
    radii = _radii(look, rng)
    margin = max(radii) + 0.01
    x, y = rng.uniform(margin, 1 - margin), rng.uniform(margin, 1 - margin)
    start = end = (x, y)
    if look.motion in ("right", "left", "up", "down"):
        room = 1 - 2 * margin
        travel = rng.uniform(0.3, min(0.5, room))
        low = rng.uniform(margin, 1 - margin - travel)
        high = low + travel
        ends = {
            "right": ((low, y), (high, y)),
            "left": ((high, y), (low, y)),
            "down": ((x, low), (x, high)),
            "up": ((x, high), (x, low)),
        }
        start, end = ends[look.motion]
    turns = rng.choice((-1, 1)) * rng.uniform(0.6, 1.0) if look.motion == "spin" else 0.0
    angle = rng.uniform(-0.25, 0.25)
    return SceneObject(look, start, end, *radii, angle, turns)


def _apart(first: SceneObject, second: SceneObject) -> bool:
    for step in range(6):
        t = step / 5
        (ax, ay), (bx, by) = first.centre(t), second.centre(t)
        if (ax - bx) ** 2 + (ay - by) ** 2 < (OVERLAP * (first.radius(t) + second.radius(t))) ** 2:
            return False
    return True


def lay_out(looks: tuple[Look, ...], relation: str | None, rng: random.Random) -> Scene | None:
    """Places such that the first two objects keep the relation and none hides another; None if none was found."""
    placed: list[SceneObject] = []
    for index, look in enumerate(looks):
        for _ in range(LAYOUT_TRIES):
            candidate = _place(look, rng)
            if not all(_apart(candidate, other) for other in placed):
                continue
            if index == 1 and relation is not None and gap(relation, placed[0], candidate) < STATED_GAP:
                continue
            placed.append(candidate)
            break
        else:
            return None
    return Scene(tuple(placed), rng.getrandbits(32))


@dataclass(frozen=True)
class _Plan:
    """A scene without places: the looks, and which facts of the first `len(facts)` of them the caption states."""

    looks: tuple[Look, ...]
    facts: tuple[tuple[str, ...], ...]
    relation: str | None

    def description(self) -> Description:
        mentions = (
            tuple((fact, getattr(look, fact)) for fact in facts if getattr(look, fact))
            for look, facts in zip(self.looks, self.facts)
        )
        return Description(tuple(mentions), self.relation)


def _random_plan(rng: random.Random) -> _Plan:
    num_objects = rng.choices((1, 2, 3, 4), weights=(3, 8, 6, 3))[0]
    looks = tuple(random_look(rng) for _ in range(num_objects))
    if num_objects == 1:
        return _Plan(looks, (FACTS,), None)
    facts = []
    for position in range(2):
        stated = {"colour", "shape"} | {fact for fact in ("size", "texture") if rng.random() < 0.4}
        if position == 0 or rng.random() < 0.6:
            stated.add("motion")
        facts.append(tuple(fact for fact in FACTS if fact in stated))
    relation = rng.choice(RELATIONS) if rng.random() < 0.8 else None
    if relation is None:
        facts[1] = tuple(dict.fromkeys((*facts[1], "motion")))
    return _Plan(looks, tuple(facts), relation)


def _vary(plan: _Plan, rng: random.Random) -> _Plan:
    """The same plan with one stated fact changed."""
    looks_facts = enumerate(zip(plan.looks, plan.facts))
    choices = [(index, fact) for index, (look, facts) in looks_facts for fact in facts if getattr(look, fact)]
    if plan.relation is not None:
        choices += [(-1, "relation")] * 2
    index, fact = rng.choice(choices)
    if index < 0:
        relation = OPPOSITE[plan.relation] if rng.random() < 0.6 else rng.choice(RELATIONS)
        return replace(plan, relation=relation)
    other = replace(plan.looks[index], **{fact: getattr(random_look(rng), fact)})
    looks = list(plan.looks)
    looks[index] = _consistent(other, rng)
    return replace(plan, looks=tuple(looks))


def _consistent(look: Look, rng: random.Random) -> Look:
    if look.motion == "spin" and look.shape not in SPINNING_SHAPES:
        look = replace(look, motion="still")
    if look.motion in ("grow", "shrink"):
        return replace(look, size="")
    return look if look.size else replace(look, size=rng.choice(SIZES))


def scenes_of_split(seed: int, split: str, num_clips: int, group_size: int) -> list[DescribedScene]:
    """Scenes of a split, in groups of `group_size` neighbours that differ in one stated fact.

    Outside "train" every description is true of its own scene alone.

    Raises:
        SceneSearchError: no further scene with a caption of its own was found.
    """
    unique = split != "train"
    accepted: list[DescribedScene] = []
    index = _SceneIndex()
    for attempt in range(50 * num_clips + 50):
        if len(accepted) >= num_clips:
            return accepted[:num_clips]
        rng = random.Random(f"demo/{seed}/{split}/{attempt}")
        for candidate in _group(rng, group_size):
            if unique and index.conflicts(candidate):
                continue
            accepted.append(candidate)
            index.add(candidate)
    raise SceneSearchError(
        f"demo corpus, split {split!r}: only {len(accepted)} of {num_clips} clips with captions of their own "
        "were found; ask for fewer clips"
    )


def _group(rng: random.Random, group_size: int) -> Iterator[DescribedScene]:
    base = _random_plan(rng)
    plans = [base] + [_vary(base, rng) for _ in range(group_size - 1)]
    for plan in plans:
        scene = lay_out(plan.looks, plan.relation, rng)
        if scene is not None:
            yield DescribedScene(scene, plan.description())


class _SceneIndex:
    """Scenes and descriptions by (shape, colour), which every mention states: conflicts are looked up, not searched."""

    def __init__(self) -> None:
        self._scenes: dict[tuple[str, str], list[Scene]] = {}
        self._descriptions: dict[tuple[str, str], list[Description]] = {}

    def add(self, item: DescribedScene) -> None:
        for key in {(o.look.shape, o.look.colour) for o in item.scene.objects}:
            self._scenes.setdefault(key, []).append(item.scene)
        self._descriptions.setdefault(_key(item.description), []).append(item.description)

    def conflicts(self, item: DescribedScene) -> bool:
        """True if the new description fits an older scene or an older description fits the new scene."""
        if any(holds(item.description, scene) for scene in self._scenes.get(_key(item.description), ())):
            return True
        keys = {(o.look.shape, o.look.colour) for o in item.scene.objects}
        return any(holds(old, item.scene) for key in keys for old in self._descriptions.get(key, ()))


def _key(description: Description) -> tuple[str, str]:
    first = dict(description.mentions[0])
    return first["shape"], first["colour"]
