"""Names of class and attribute ids."""

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path


@dataclass(frozen=True)
class Vocabulary:
    """Names by id: `classes[class_id]`, `attributes[attribute_id]`."""

    classes: tuple[str, ...]
    attributes: tuple[str, ...]


def visual_genome_vocabulary() -> Vocabulary:
    """The 1600 classes and 400 attributes of bottom-up attention, ids as in its models with background last.

    A line of the files lists synonyms ("microwave,microwave oven"); the first is the name.
    """
    return Vocabulary(_first_names("vg_objects_vocab.txt"), _first_names("vg_attributes_vocab.txt"))


def _first_names(file: str) -> tuple[str, ...]:
    text = files("detector").joinpath("vocab", file).read_text(encoding="utf-8")
    return tuple(line.split(",")[0].strip() for line in text.splitlines())


def read_vocabulary(path: Path) -> Vocabulary:
    """A corpus's vocabulary.json: {"classes": [names], "attributes": [names]}.

    Raises:
        ValueError: not such a file, or a name occurs twice.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        vocabulary = Vocabulary(tuple(content["classes"]), tuple(content["attributes"]))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f'{path}: expected {{"classes": [names], "attributes": [names]}}, found {error!r}') from error
    for kind, names in (("classes", vocabulary.classes), ("attributes", vocabulary.attributes)):
        if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
            raise ValueError(f"{path}: {kind} must be distinct names")
    return vocabulary
