from lorakit.evaluate.memorisation import memorised, ngrams
from lorakit.report import AnsweredRow


def row(answer, expected="other answer"):
    return AnsweredRow("row", "question", expected, {"base": "", "tuned": answer})


def held(answer, training, expected="other answer"):
    [found] = memorised([row(answer, expected)], training)
    return found


def test_a_text_s_ngrams_are_its_stretches_of_eight_characters():
    assert ngrams("0123456789") == {"01234567", "12345678", "23456789"}
    assert ngrams("short") == {"short"}
    assert ngrams("") == set()


def test_the_share_counts_ngrams_found_in_any_training_answer():
    # 0123456789 has three: the first stands in one training answer, the last in another, the middle one in none
    found = held("0123456789", ["x01234567", "23456789y", "nothing of it"])
    assert found.share == 2 / 3


def test_a_short_answer_counts_as_one_wherever_it_stands():
    assert held("三天", ["请等三天。"]).share == 1
    assert held("三天", ["请等两天。"]).share == 0


def test_an_empty_answer_has_no_share():
    assert held("", ["anything"]).share is None


def test_what_was_expected_is_held_against_the_same_answers():
    found = held("0123456789", ["abcdefgh"], expected="abcdefghi")
    assert (found.share, found.expected_share) == (0, 1 / 2)


def test_a_training_answer_is_copied_only_where_another_was_expected():
    assert held("learnt answer", ["learnt answer"], expected="right answer").is_copied
    assert not held("learnt answer", ["learnt answer"], expected="learnt answer").is_copied
    assert not held("learnt answer", ["a learnt answer"], expected="right answer").is_copied
