import pytest

from lorakit.evaluate.verdict import verdict


def scores(exact, chrf, loss, rows=15):
    return {"exact_match": exact / rows, "chrf": chrf, "loss": loss, "generated_rows": rows}


@pytest.mark.parametrize(
    ("base", "tuned", "sentence"),
    [
        ((0, 5, 3.0), (12, 90, 0.1), "better than the base: 12 of 15 answers word for word, base none"),
        ((2, 40, 3.0), (12, 90, 3.5), "better than the base: 12 of 15 answers word for word, base 2"),
        ((0, 5, 3.0), (0, 31, 1.5), "better than the base: none of 15 answers word for word, their likeness"),
        ((3, 50, 1.0), (3, 50, 1.0), "no better than the base: 3 of 15 answers word for word, base 3"),
        ((0, 50, 1.0), (0, 49.5, 1.2), "no better than the base: "),
        ((3, 50, 1.0), (1, 70, 0.5), "worse than the base: 1 of 15 answers word for word, base 3"),
        ((0, 50, 1.0), (0, 20, 2.0), "worse than the base: "),
        ((0, 20, 1.0), (0, 50, 2.0), "hardly better than the base: "),
        ((0, 50, 2.0), (0, 50, 1.0), "hardly better than the base: "),
    ],
)
def test_the_sentence_follows_the_answers_before_the_loss(base, tuned, sentence):
    found = verdict({"base": scores(*base), "tuned": scores(*tuned)}, is_trained_on=False)
    assert found.startswith(sentence)
    assert "\n" not in found


def test_a_base_alone_is_only_counted():
    assert verdict({"base": scores(0, 5, 3)}, False) == "the base answers none of 15 word for word"


def test_training_rows_prove_less_and_it_says_so():
    both = {"base": scores(0, 5, 3), "tuned": scores(15, 100, 0)}
    assert "training rows" in verdict(both, True)
    assert "training rows" not in verdict(both, False)


def test_where_nothing_could_be_answered_nothing_is_judged():
    nothing = {"exact_match": float("nan"), "chrf": float("nan"), "loss": 1.0, "generated_rows": 0}
    assert "nothing to compare" in verdict({"base": nothing, "tuned": nothing}, False)
