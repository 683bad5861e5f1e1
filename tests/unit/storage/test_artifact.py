"""Artifacts: what is done, what is damaged, why a stage would run."""

import json
import shutil

import pytest

from storage.artifact import Difference, Recipe, Workspace, payload_digests
from storage.errors import (
    DamagedStoreError,
    FingerprintMismatchError,
    LeaseHeldError,
    LeaseLostError,
    OutputMissingError,
)
from storage.ledger import LedgerRow
from storage.shards import PartSet, ShardPlan


def recipe(name="demo", stage="pretrain", inputs=None, code_version=1, **config):
    config = {"model": {"dim": 8, "heads": [1, 2]}, "lr": 0.1, **config}
    return Recipe(stage, name, config, inputs or {"regions": "aa"}, code_version)


def build(workspace, wanted, files=None, **commit):
    with workspace.building(wanted) as made:
        for name, data in (files or {"model.bin": b"weights", "logs/run.log": b"log", "sub/b.txt": b"b"}).items():
            path = made.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return made.commit(**commit)


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "workspace")


def test_a_workspace_that_is_a_file_is_refused_by_name(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(NotADirectoryError, match=r"notes\.txt is a file, not a folder; choose another"):
        Workspace(tmp_path / "notes.txt")


class TestRecipe:
    def test_directory_name_is_name_and_eight_digits(self, workspace):
        wanted = recipe()
        assert workspace.directory(wanted) == workspace.root / "pretrain" / f"demo-{wanted.fingerprint[:8]}"
        assert len(wanted.fingerprint) == 64

    def test_the_name_is_no_identity_but_all_else_is(self):
        base = recipe().fingerprint
        assert recipe(name="other").fingerprint == base
        others = [recipe(stage="x"), recipe(lr=0.2), recipe(inputs={"regions": "bb"}), recipe(code_version=2)]
        assert len({base, *(other.fingerprint for other in others)}) == 5

    def test_a_later_change_of_the_config_changes_nothing(self):
        config = {"a": {"b": 1}}
        made = Recipe("s", "n", config, {}, 1)
        config["a"]["b"] = 2
        assert made.config == {"a": {"b": 1}}

    @pytest.mark.parametrize("bad", ["", "a/b", "..", ".hidden", "x y", "a.tmp-1"])
    def test_names_that_are_no_folder_are_refused(self, bad):
        with pytest.raises(ValueError, match="recipe name"):
            recipe(name=bad)
        with pytest.raises(ValueError, match="recipe stage"):
            recipe(stage=bad)

    @pytest.mark.parametrize("path", ["/data/clips", "/home/a b/c", "C:\\data", "file:///data/x"])
    def test_an_absolute_path_in_the_config_is_refused_by_field(self, path):
        with pytest.raises(ValueError, match=r"config field corpora\.roots\[1\] is the absolute path"):
            recipe(corpora={"roots": ["clips", path]})

    @pytest.mark.parametrize("text", ["/", "/ a caption", "a/b", "//", ""])
    def test_other_text_with_slashes_is_fine(self, text):
        recipe(text=text)

    def test_inputs_must_be_text(self):
        with pytest.raises(ValueError, match=r"inputs \['regions'\]"):
            recipe(inputs={"regions": 3})


class TestDone:
    def test_nothing_is_done_before_the_record(self, workspace):
        wanted = recipe()
        assert workspace.find(wanted) is None
        assert workspace.state(wanted).status == "absent"
        with workspace.building(wanted) as made:
            (made.directory / "model.bin").write_bytes(b"x")
            assert workspace.find(wanted) is None
            state = workspace.state(wanted)
            assert state.status == "partial"
            assert "being made by pid" in state.detail
        assert workspace.state(wanted).status == "partial"

    def test_a_committed_artifact_is_found_with_all_it_knows(self, workspace):
        made = build(workspace, recipe(), facts={"loss": 0.5}, config={"root": "/data/My clips/x", "lr": 0.1})
        found = workspace.find(recipe())
        assert found == made
        assert found.outputs.keys() == {"model.bin", "sub/b.txt"}
        assert found.outputs["model.bin"]["bytes"] == 7
        assert (found.facts, found.config, found.inputs) == ({"loss": 0.5}, recipe().config, {"regions": "aa"})
        assert found.record["full_config"] == {"root": ".../x", "lr": 0.1}
        assert found.seconds >= 0
        assert {"git", "packages", "host", "python", "started", "finished"} <= found.record.keys()
        assert workspace.state(recipe()).status == "done"
        assert workspace.why(recipe()) == []
        assert workspace.verify(found) == []

    def test_no_absolute_path_is_recorded(self, workspace):
        made = build(workspace, recipe(), facts={"from": str(workspace.root), "list": [str(workspace.root / "x")]})
        assert str(workspace.root) not in (made.path / "artifact.json").read_text()

    def test_a_moved_workspace_is_still_done(self, workspace, tmp_path):
        build(workspace, recipe())
        shutil.move(workspace.root, tmp_path / "moved")
        assert Workspace(tmp_path / "moved").find(recipe()) is not None

    def test_files_and_folders_by_name(self, workspace):
        made = build(workspace, recipe())
        assert made.file("model.bin").read_bytes() == b"weights"
        assert made.file("sub") == made.path / "sub"
        with pytest.raises(OutputMissingError, match=r"no output 'nope'; it has model\.bin, sub/b\.txt") as caught:
            made.file("nope")
        assert isinstance(caught.value, FileNotFoundError)

    def test_named_outputs_only(self, workspace):
        made = build(workspace, recipe(), outputs=["model.bin"])
        assert made.outputs.keys() == {"model.bin"}

    @pytest.mark.parametrize(
        ("outputs", "error", "message"),
        [
            (["gone.bin"], OutputMissingError, "output gone.bin is missing"),
            (["../x"], ValueError, "relative to the artifact"),
            (["/etc/hosts"], ValueError, "relative to the artifact"),
            ([], OutputMissingError, "no output file at all"),
        ],
    )
    def test_bad_outputs_are_not_recorded(self, workspace, outputs, error, message):
        with pytest.raises(error, match=message):
            build(workspace, recipe(), outputs=outputs)
        assert workspace.find(recipe()) is None

    def test_facts_that_json_cannot_hold_are_refused(self, workspace):
        with pytest.raises(ValueError, match="finite numbers only"):
            build(workspace, recipe(), facts={"loss": float("nan")})
        assert workspace.find(recipe()) is None

    def test_artifacts_lists_them(self, workspace):
        for wanted in (recipe(), recipe(lr=0.2), recipe(stage="finetune")):
            build(workspace, wanted)
        assert [found.stage for found in workspace.artifacts()] == ["finetune", "pretrain", "pretrain"]
        assert [found.config["lr"] for found in workspace.artifacts("finetune")] == [0.1]
        assert list(Workspace(workspace.root / "nowhere").artifacts()) == []


def _delete(path):
    path.unlink()


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def _empty(path):
    path.write_bytes(b"")


class TestDamage:
    @pytest.mark.parametrize("damage", [_delete, _truncate, _empty])
    def test_a_damaged_output_is_not_done_and_named(self, workspace, damage):
        made = build(workspace, recipe())
        damage(made.path / "sub/b.txt")
        assert workspace.find(recipe()) is None
        state = workspace.state(recipe())
        assert state.status == "damaged"
        assert "sub/b.txt" in state.detail
        (difference,) = workspace.why(recipe())
        assert (difference.kind, difference.field, difference.old) == ("output", "sub/b.txt", "1 bytes")
        assert "sub/b.txt" in workspace.verify(made)[0]

    def test_a_flipped_bit_is_found_by_verify(self, workspace):
        made = build(workspace, recipe())
        made.file("model.bin").write_bytes(b"weighty")
        assert workspace.find(recipe()) is not None
        (problem,) = workspace.verify(made)
        assert problem.startswith(f"pretrain/{made.path.name}/model.bin has other content than its record says")

    def test_a_torn_record_is_damage_and_the_stage_runs_again(self, workspace):
        made = build(workspace, recipe())
        record = made.path / "artifact.json"
        whole = record.read_bytes()
        for cut in (0, 1, len(whole) // 2, len(whole) - 1):
            record.write_bytes(whole[:cut])
            assert workspace.find(recipe()) is None
            assert workspace.state(recipe()).status == "damaged"
            assert workspace.why(recipe())[0].kind == "absent"
            assert list(workspace.artifacts()) == []
        assert build(workspace, recipe()).facts == {}
        assert workspace.state(recipe()).status == "done"

    def test_rebuilding_removes_the_record_and_keeps_what_is_right(self, workspace):
        made = build(workspace, recipe())
        made.file("model.bin").unlink()
        with workspace.building(recipe()) as again:
            assert again.previous is None
            assert not (again.directory / "artifact.json").exists()
            assert (again.directory / "sub/b.txt").read_bytes() == b"b"

    def test_building_a_done_artifact_leaves_its_record(self, workspace):
        made = build(workspace, recipe())
        with workspace.building(recipe()) as again:
            assert again.previous == made
        assert workspace.find(recipe()) == made

    def test_a_record_of_another_recipe_is_refused(self, workspace):
        made = build(workspace, recipe())
        path = made.path / "artifact.json"
        record = json.loads(path.read_text())
        record["fingerprint"] = record["fingerprint"][:8] + "0" * 56
        path.write_text(json.dumps(record))
        assert workspace.find(recipe()) is None
        assert workspace.state(recipe()).status == "damaged"
        with pytest.raises(FingerprintMismatchError, match="belongs to recipe"):
            build(workspace, recipe())

    def test_litter_of_a_killed_record_is_cleared(self, workspace):
        directory = workspace.directory(recipe())
        litter = [directory / name for name in ("artifact.json.tmp-1", "sub/x.tmp-2", "c/step-1.tmp-3/a.tmp-4")]
        spared = directory / "parts/000000.tmp-5/x"
        for path in (*litter, spared):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"{")
        build(workspace, recipe())
        assert not any(path.exists() for path in litter)
        assert spared.exists()  # a shard's writer may be alive: PartSet.sweep knows


class TestWhy:
    def test_names_every_kind_of_difference(self, workspace):
        build(workspace, recipe())
        wanted = recipe(inputs={"regions": "bb"}, code_version=2, lr=0.2, model={"dim": 8, "heads": [1, 3]}, new=True)
        assert workspace.why(wanted) == [
            Difference("config", "lr", 0.1, 0.2),
            Difference("config", "model.heads", [1, 2], [1, 3]),
            Difference("config", "new", "(not set)", True),
            Difference("input", "regions", "aa", "bb"),
            Difference("code_version", "code_version", 1, 2),
        ]

    def test_lists_of_models_are_compared_by_index(self, workspace):
        build(workspace, recipe(corpora=[{"kind": "demo", "n": 1}, {"kind": "csv"}]))
        (found,) = workspace.why(recipe(corpora=[{"kind": "demo", "n": 2}, {"kind": "csv"}]))
        assert (found.field, found.old, found.new) == ("corpora[0].n", 1, 2)

    def test_a_boolean_is_not_one(self, workspace):
        build(workspace, recipe(flag=1))
        assert [found.field for found in workspace.why(recipe(flag=True))] == ["flag"]

    def test_compares_with_the_newest_of_the_same_name(self, workspace):
        build(workspace, recipe(lr=0.3))
        newest = build(workspace, recipe(lr=0.4))
        path = newest.path / "artifact.json"
        record = json.loads(path.read_text())
        record["finished"] = "2999-01-01T00:00:00.000+00:00"
        path.write_text(json.dumps(record))
        build(workspace, recipe(lr=0.5, name="other"))
        assert workspace.why(recipe(lr=0.6)) == [Difference("config", "lr", 0.4, 0.6)]

    def test_nothing_to_compare_with(self, workspace):
        (found,) = workspace.why(recipe())
        assert (found.kind, found.field) == ("absent", "artifact.json")
        assert "no finished artifact of stage 'pretrain' named 'demo'" in found.new

    def test_an_interrupted_build_says_how_far_it_came(self, workspace):
        wanted = recipe()
        parts = PartSet(workspace.directory(wanted), ShardPlan(5, 2), wanted.fingerprint)
        with parts.claim(1):
            staging = parts.staging(1)
            (staging / "x").write_bytes(b"x")
            parts.commit(1, staging, ledger=[])
        assert workspace.state(wanted).detail == "1 of 3 shards committed"
        assert workspace.why(wanted) == [Difference("absent", "artifact.json", None, "1 of 3 shards committed")]


class TestLeases:
    def test_a_second_builder_is_held_off(self, workspace):
        with workspace.building(recipe()):
            with pytest.raises(LeaseHeldError, match=r"pretrain/demo-.*: held by pid \d+ on host"):
                with workspace.building(recipe()):
                    pass
        build(workspace, recipe())

    def test_a_lost_lease_is_noticed_before_the_record(self, workspace):
        with workspace.building(recipe()) as made:
            (made.directory / "x").write_bytes(b"x")
            (made.directory / "leases/artifact.lease").unlink()
            with pytest.raises(LeaseLostError):
                made.commit()
        assert workspace.find(recipe()) is None


class TestParts:
    def commit_part(self, directory, fingerprint, shard, data=b"data"):
        parts = PartSet(directory, ShardPlan(4, 2), fingerprint)
        with parts.claim(shard):
            staging = parts.staging(shard)
            (staging / "x.bin").write_bytes(data)
            rows = parts.plan.range_of(shard)
            parts.commit(shard, staging, ledger=[LedgerRow(f"c{row}", row, "s", "ok", seconds=0.1) for row in rows])

    def test_parts_records_and_ledger_are_outputs_but_only_parts_are_payload(self, workspace):
        wanted = recipe()
        for shard in (0, 1):
            self.commit_part(workspace.directory(wanted), wanted.fingerprint, shard)
        made = build(workspace, wanted, files={"index.bin": b"i", "logs/x.log": b"l"})
        parts = {"parts/000000/x.bin", "parts/000001/x.bin"}
        records = {
            f"{folder}/00000{n}.{end}" for folder, end in (("commits", "json"), ("ledger", "parquet")) for n in (0, 1)
        }
        assert made.outputs.keys() == parts | records | {"index.bin"}
        assert payload_digests(made.path).keys() == parts | {"index.bin"}
        assert workspace.verify(made) == []

    def test_a_part_damaged_before_the_record_is_refused(self, workspace):
        wanted = recipe()
        self.commit_part(workspace.directory(wanted), wanted.fingerprint, 0)
        (workspace.directory(wanted) / "parts/000000/x.bin").write_bytes(b"")
        with pytest.raises(DamagedStoreError, match=r"parts/000000/x\.bin has 0 bytes where its record says 4"):
            build(workspace, wanted)
        assert workspace.find(wanted) is None
