"""A checkpoint is whole or it is not used."""

import json
import os

import pytest

from lorakit.runs import CheckpointFacts, PlanRecord, checkpoints, discard_old, fault_in, publish, read_facts

FACTS = CheckpointFacts("mine", PlanRecord(0, 64, True, False, 100, {"weights": 100}), (64, 32))


def written(folder, step=8, facts=FACTS):
    aside = folder / "aside"
    (aside / "inner").mkdir(parents=True)
    (aside / "weights.safetensors").write_bytes(bytes(range(256)))
    (aside / "inner" / "state.json").write_text("{}")
    publish(aside, folder / f"checkpoint-{step}", facts)
    return folder / f"checkpoint-{step}"


def test_what_was_written_aside_gets_its_name_only_when_it_is_whole(tmp_path):
    checkpoint = written(tmp_path)
    assert not (tmp_path / "aside").exists()
    assert fault_in(checkpoint) is None


def damage_a_bit(checkpoint):
    file = checkpoint / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)


def instead_of(name, put):
    """Damage: something else under a file's name."""

    def damage(checkpoint):
        (checkpoint / name).unlink()
        put(checkpoint / name)

    return damage


def listing(name):
    """Damage: a manifest that names a file, with nothing to be said against it but where it lies."""

    def damage(checkpoint):
        (checkpoint.parent / "outside").write_text("")
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        manifest["files"][name.format(folder=checkpoint.parent)] = {"bytes": 0, "sha256": nothing}
        (checkpoint / "manifest.json").write_text(json.dumps(manifest))

    return damage


WEIGHTS = "weights.safetensors"
DAMAGES = {
    "a flipped bit": (damage_a_bit, "weights.safetensors is damaged"),
    "a cut file": (lambda path: (path / "weights.safetensors").write_bytes(b"1"), "weights.safetensors is damaged"),
    "a lost file": (lambda path: (path / "inner" / "state.json").unlink(), "inner/state.json is missing"),
    "no manifest": (lambda path: (path / "manifest.json").unlink(), "it has no manifest.json"),
    "half a manifest": (lambda path: (path / "manifest.json").write_text('{"fi'), "manifest.json cannot be read"),
    "another manifest": (lambda path: (path / "manifest.json").write_text("[1]"), "manifest.json cannot be read"),
    "a nested manifest": (
        lambda path: (path / "manifest.json").write_text("[" * 100_000),
        "manifest.json cannot be read",
    ),
    "a huge manifest": (lambda path: os.truncate(path / "manifest.json", 10**12), "manifest.json cannot be read"),
    "a manifest that is a pipe": (instead_of("manifest.json", os.mkfifo), "manifest.json is a device, a pipe"),
    "a manifest without an end": (
        instead_of("manifest.json", lambda path: path.symlink_to("/dev/zero")),
        "manifest.json is a device, a pipe",
    ),
    "a file that is a pipe": (instead_of(WEIGHTS, os.mkfifo), f"{WEIGHTS} is a device, a pipe"),
    "a file that is a folder": (instead_of(WEIGHTS, os.mkdir), f"{WEIGHTS} is damaged"),
    "a file of other folders": (
        instead_of(WEIGHTS, lambda path: path.symlink_to("/etc/passwd")),
        f"{WEIGHTS} is a link that leads out of the folder",
    ),
    "a circle of links": (instead_of(WEIGHTS, lambda path: path.symlink_to(WEIGHTS)), f"{WEIGHTS} cannot be read"),
    "a link to nothing": (instead_of(WEIGHTS, lambda path: path.symlink_to("none")), f"{WEIGHTS} there is no such"),
    "a pipe that nobody has listed": (lambda path: os.mkfifo(path / "more"), "more is a device, a pipe"),
    "a name that climbs out": (listing("../outside"), "../outside is missing"),
    "a name from the root": (listing("{folder}/outside"), "/"),
    "a name that none could have": (listing("a\0b"), "a\0b is missing"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_is_noticed_and_named(tmp_path, name):
    damage, fault = DAMAGES[name]
    checkpoint = written(tmp_path)
    damage(checkpoint)
    assert fault_in(checkpoint).startswith(fault)


BUDGETS = ([], [0], [-5], [2**60], [float("inf")], [float("nan")], ["many"], "99", None, 5)
PLANS = ({"max_tokens": "many"}, {"step": None}, {"planned_parts": 5}, {"is_compiled": "perhaps"})


@pytest.mark.parametrize("change", [*({"max_tokens": wrong} for wrong in BUDGETS), *({"plan": p} for p in PLANS)])
def test_facts_that_cannot_be_are_none(tmp_path, change):
    checkpoint = written(tmp_path)
    assert read_facts(checkpoint) == FACTS
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    changed = {"plan": manifest["plan"] | change["plan"]} if "plan" in change else change
    (checkpoint / "manifest.json").write_text(json.dumps(manifest | changed))
    assert read_facts(checkpoint) is None


def test_checkpoints_are_listed_by_step_the_newest_first(tmp_path):
    for step in (9, 80, 100):
        written(tmp_path, step)
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint.writing").mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-100", "checkpoint-80", "checkpoint-9"]


def test_a_later_checkpoint_of_the_same_step_replaces_the_earlier_one(tmp_path):
    written(tmp_path)
    checkpoint = written(tmp_path)
    assert fault_in(checkpoint) is None
    assert set(json.loads((checkpoint / "manifest.json").read_text())["files"]) == {
        "weights.safetensors",
        "inner/state.json",
    }


def test_a_checkpoint_says_which_run_left_it_and_what_that_had_decided(tmp_path):
    assert read_facts(written(tmp_path)) == FACTS
    (tmp_path / "checkpoint-8" / "manifest.json").write_text('{"files": {}}')
    assert read_facts(tmp_path / "checkpoint-8") is None


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_to_which_somebody_has_added_something_stays(tmp_path):
    for step in (2, 4, 6, 8):
        written(tmp_path, step)
    (tmp_path / "checkpoint-2" / "notes.txt").write_text("mine")
    (tmp_path / "checkpoint-4" / "inner" / "link").symlink_to(tmp_path)
    discard_old(tmp_path, "mine", 8, 1, None)
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4", "checkpoint-8"]
    assert (tmp_path / "checkpoint-2" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("most", "best", "kept"),
    [
        (2, None, {8, 6}),
        (1, None, {8}),
        (2, 2, {8, 2}),
        (1, 2, {8, 2}),
        (3, 6, {8, 6, 4}),
        (None, None, {8, 6, 4, 2}),
    ],
)
def test_only_checkpoints_of_the_run_itself_are_deleted(tmp_path, most, best, kept):
    for step in (2, 4, 6, 8):
        written(tmp_path, step)
    written(tmp_path, 1, CheckpointFacts("another", FACTS.plan, (64,)))
    written(tmp_path, 9)  # of a time that is computed anew
    for name in ("checkpoint-3", "checkpoint-best", "checkpoint-5.older"):  # somebody's own
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("mine")
    discard_old(tmp_path, "mine", 8, most, tmp_path / f"checkpoint-{best}" if best else None)
    left = {1, 9, 3} | kept
    assert names(tmp_path) == sorted([*(f"checkpoint-{n}" for n in left), "checkpoint-best", "checkpoint-5.older"])
