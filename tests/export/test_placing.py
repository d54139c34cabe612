"""What somebody has changed in the proof of a folder is kept when the folder is written anew."""

import math

import pytest

from lorakit.export.placing import hashes_of, unproven, write_proof

RECORD = {"proven": True, "mean_kl_nats": 1e-9, "tolerance": (0.5, math.inf), "layers": 2}


def write(folder):
    with unproven(folder) as writing:
        (writing / "model").write_text("weights")
        write_proof(writing, RECORD | {"files": hashes_of(writing.iterdir())})


@pytest.mark.parametrize(("old", "new"), [("true", "false"), ("1e-09", "1e-08"), ("}\n", "}\n# mine\n"), (None, None)])
def test_a_changed_proof_is_kept_beside_the_new_one(tmp_path, old, new):
    folder = tmp_path / "merged"
    write(folder)
    proof = folder / "proof.json"
    whole = proof.read_text()
    if old is not None:
        assert old in whole
        proof.write_text(changed := whole.replace(old, new))
    write(folder)
    kept = list(folder.glob("proof.json*"))
    assert proof.read_text() == whole
    assert [path.read_text() for path in kept if path != proof] == ([changed] if old else [])


def test_a_proof_of_an_earlier_version_is_replaced(tmp_path):
    folder = tmp_path / "merged"
    folder.mkdir()
    (folder / "proof.json").write_text('{"proven": true, "files": []}')
    write(folder)
    assert {path.name for path in folder.iterdir()} == {"proof.json", "model"}
