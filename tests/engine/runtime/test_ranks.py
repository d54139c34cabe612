from lorakit.engine import Ranks


def test_shares_are_disjoint_and_complete():
    items = list(range(7))
    shares = [Ranks(index, 3).share(items) for index in range(3)]
    assert shares == [[0, 3, 6], [1, 4], [2, 5]]


def test_one_process_has_everything_as_it_comes():
    stream = iter("abc")
    assert Ranks().share("abc") == "abc"
    assert Ranks().collect(stream) is stream
    assert Ranks().is_first


def test_the_launcher_s_numbers_are_read(monkeypatch):
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert Ranks.of_environment() == Ranks(2, 4)
    assert not Ranks.of_environment().is_first
