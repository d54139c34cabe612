import itertools

import pytest

from lorakit.cli.company import check_company, number_of_processes
from lorakit.errors import LorakitError, RunError

SHARED = frozenset({"train"})
NAMES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
ODD = ("abc", "", "-1", "1.5", "9" * 5000, "\n", "1e3", "²", "0x1", " ")
ALONE = {"WORLD_SIZE": None, "RANK": None, "LOCAL_RANK": None, "LOCAL_WORLD_SIZE": None, "MASTER_PORT": None}
TWO = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500", "LOCAL_RANK": "1"}


@pytest.fixture
def surroundings(monkeypatch):
    def put(**variables):
        for name, value in (ALONE | {"MASTER_ADDR": None} | variables).items():
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)

    return put


@pytest.mark.parametrize(("name", "value"), itertools.product(NAMES, ODD))
def test_what_no_launcher_sets_is_refused_by_name(surroundings, name, value):
    surroundings(**{name: value})
    with pytest.raises(LorakitError, match=f"^{name}=.*: is no number from"):
        check_company("train", SHARED)
    assert number_of_processes() >= 1


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2: RANK, MASTER_ADDR, MASTER_PORT must be set as well"),
        ({"RANK": "7"}, r"RANK=7: there are 1 processes \(WORLD_SIZE\), the first of them 0"),
        (TWO | {"RANK": "2"}, "RANK=2: there are 2 processes"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE='0': is no number from 1 to 100000"),
    ],
)
def test_what_does_not_go_together_is_refused(surroundings, variables, said):
    surroundings(**variables)
    with pytest.raises(LorakitError, match=said):
        check_company("train", SHARED)


def test_what_launchers_set_is_taken_and_only_some_tasks_are_shared(surroundings):
    surroundings()
    check_company("merge", SHARED)
    assert number_of_processes() == 1
    surroundings(**TWO)
    check_company("train", SHARED)
    assert number_of_processes() == 2
    with pytest.raises(RunError, match="merge: is done by one process, and 2 were started"):
        check_company("merge", SHARED)
