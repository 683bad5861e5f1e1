"""Words of the demo world: what an object can look like, how it moves, and the English for both.

Every demo corpus, whatever its seed, shares this vocabulary: a model trained on one reads another.
"""

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "arrow")

COLOURS = {  # RGB; far apart from one another and, being bright, from the muted backgrounds
    "red": (222, 40, 40),
    "orange": (245, 140, 20),
    "yellow": (245, 225, 50),
    "green": (40, 175, 65),
    "blue": (40, 85, 230),
    "purple": (150, 60, 200),
    "cyan": (60, 215, 225),
    "white": (245, 245, 245),
}
TEXTURES = ("plain", "striped", "dotted", "checkered")
SIZES = ("small", "large")
ATTRIBUTES = (*COLOURS, *TEXTURES, *SIZES)

MOTIONS = ("still", "right", "left", "up", "down", "spin", "grow", "shrink")
SPINNING_SHAPES = ("square", "triangle", "star", "cross", "heart", "arrow")  # a turning circle or ring looks still
RELATIONS = ("left", "right", "above", "below")
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}

# Radius of the bounding circle as a fraction of the frame's side; the gap between the ranges keeps the words apart.
RADIUS = {"small": (0.090, 0.110), "large": (0.150, 0.185)}

NOUNS = {
    "circle": ("circle", "disc", "ball"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "cross": ("cross", "plus sign"),
    "ring": ("ring", "hoop"),
    "heart": ("heart",),
    "arrow": ("arrow",),
}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big")}
TEXTURE_WORDS = {
    "plain": ("plain", "solid"),
    "striped": ("striped",),
    "dotted": ("dotted", "spotted"),
    "checkered": ("checkered",),
}
MOTION_WORDS = {  # (third person, -ing form)
    "still": (
        ("stays still", "staying still"),
        ("does not move", "not moving"),
        ("rests in place", "resting in place"),
    ),
    "right": (("moves to the right", "moving to the right"), ("slides right", "sliding right")),
    "left": (("moves to the left", "moving to the left"), ("slides left", "sliding left")),
    "up": (("rises", "rising"), ("moves up", "moving up"), ("floats upwards", "floating upwards")),
    "down": (("falls", "falling"), ("moves down", "moving down"), ("sinks downwards", "sinking downwards")),
    "spin": (("spins", "spinning"), ("rotates", "rotating"), ("turns around", "turning around")),
    "grow": (("grows", "growing"), ("gets bigger", "getting bigger")),
    "shrink": (("shrinks", "shrinking"), ("gets smaller", "getting smaller")),
}
RELATION_WORDS = {
    "left": ("to the left of", "left of", "on the left side of"),
    "right": ("to the right of", "right of", "on the right side of"),
    "above": ("above", "over", "higher than"),
    "below": ("below", "under", "lower than"),
}
