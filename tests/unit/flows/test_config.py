"""Configurations: every shipped one is built, problems are reported together and by name."""

import pytest

from flows.cli import SetOption
from flows.config import ConfigError, load_config, parse_config, shipped_configs
from flows.graph import build_dag
from storage.fingerprint import identity


@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_every_shipped_configuration_is_valid(name):
    assert load_config(name).name == name


def minimal() -> dict:
    return {
        "name": "x",
        "corpora": {"a": {"corpus": {"kind": "demo", "num_train": 4}}},
        "detector": {"model": {"preset": "demo"}, "train": {"corpus": "a"}},
    }


def test_unknown_name_lists_the_shipped_ones():
    with pytest.raises(ConfigError, match=r"no configuration 'nope'.*'demo'"):
        load_config("nope")


def test_all_problems_are_reported_at_once():
    tree = minimal() | {"colour": 1, "regions": {"dtype": "int8"}}
    with pytest.raises(ConfigError) as caught:
        parse_config(tree, [], source="t")
    assert "2 problem(s)" in str(caught.value)
    assert "colour: Extra inputs are not permitted" in str(caught.value)
    assert "regions.dtype" in str(caught.value)


def test_unreadable_yaml_and_a_list_at_the_top(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [1, 2")
    with pytest.raises(ConfigError, match="not readable as YAML"):
        load_config(bad)
    bad.write_bytes(b"name: \xed\x00")
    with pytest.raises(ConfigError, match=r"bad\.yaml: not readable as YAML"):
        load_config(bad)
    bad.write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match="expected a mapping at the top, found list"):
        load_config(bad)


def test_references_to_corpora_and_models_are_checked():
    tree = minimal() | {
        "pretrain": {"corpora": ["b"]},
        "evaluate": {"e": {"corpus": "a", "model": "finetune-x"}},
    }
    with pytest.raises(ConfigError) as caught:
        parse_config(tree, [], source="t")
    assert "pretrain: corpus 'b' is not one of the corpora ['a']" in str(caught.value)
    assert "evaluate.e: no model step 'finetune-x'" in str(caught.value)


def test_a_detector_has_exactly_one_source():
    tree = minimal()
    tree["detector"] = {"model": {"preset": "demo"}}
    with pytest.raises(ConfigError, match="exactly one of 'train'"):
        parse_config(tree, [], source="t")


def test_overrides_reach_any_depth_and_read_exponents():
    tree = minimal() | {"pretrain": {"corpora": ["a"]}}
    config = parse_config(tree, ["pretrain.train.optimizer.lr=3e-5", "report.num_examples=2"], source="t")
    assert config.pretrain.train.optimizer.lr == 3e-5
    assert config.report.num_examples == 2


@pytest.mark.parametrize("override", ["pretrain", "=3", "name.x=1", "name=[1"])
def test_bad_overrides_are_refused(override):
    with pytest.raises(ConfigError, match="--set"):
        parse_config(minimal(), [override], source="t")


def test_the_override_that_the_help_gives_as_an_example_works():
    """Help and the error message show a real field of the demo; a misspelt one would be a newcomer's first experience."""
    with pytest.raises(ConfigError, match="for example") as caught:
        load_config("demo", ["x"])
    example = str(caught.value).rpartition("for example ")[2]
    assert example in SetOption.__metadata__[0].help
    load_config("demo", [example])


def test_a_device_that_torch_does_not_know_is_refused_before_anything_runs():
    for device in ("auto", "cpu", "cuda", "cuda:1"):
        assert parse_config(minimal(), [f"execution.device={device}"], source="t").execution.device == device
    with pytest.raises(ConfigError, match=r"execution\.device"):
        parse_config(minimal(), ["execution.device=gpu"], source="t")


def test_weights_that_are_not_there_are_named_with_their_field():
    tree = minimal() | {"detector": {"model": {"preset": "demo"}, "weights": "nope.safetensors"}}
    with pytest.raises(FileNotFoundError, match=r"detector\.weights: no file at nope\.safetensors"):
        build_dag(parse_config(tree, [], source="t"))


def test_names_become_folders_so_they_are_restricted():
    tree = minimal() | {"name": "../x"}
    with pytest.raises(ConfigError, match="name: String should match pattern"):
        parse_config(tree, [], source="t")


def test_placement_is_not_identity():
    config = parse_config(minimal(), [], source="t")
    assert identity(config.execution) == {}
    assert "weights" not in identity(config.detector)


def test_a_corpus_that_serves_the_detector_alone_is_not_extracted():
    assert parse_config(minimal(), [], source="t").extracted_corpora() == []
    assert parse_config(minimal() | {"pretrain": {"corpora": ["a"]}}, [], source="t").extracted_corpora() == ["a"]
    other = minimal()
    other["corpora"]["b"] = {"corpus": {"kind": "demo", "num_train": 4}}
    assert parse_config(other, [], source="t").extracted_corpora() == ["b"]
