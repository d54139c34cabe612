import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from lorakit.evaluate.metrics import AnswerScores, is_chinese, rouge_l, row_scores, without_reasoning

CHINESE = [("每天早睡早起，多喝水。", "每天早睡早起，少吃糖。"), ("不知道", "多运动，少熬夜。"), ("对。", "对。")]
ENGLISH = [("the cat sat on the mat", "the cat is on the mat"), ("a dog barks loudly here", "a dog barks loudly here")]


def scored(pairs):
    scores = AnswerScores()
    for answer, reference in pairs:
        scores.add(answer, reference)
    return scores.summary()


@pytest.mark.parametrize(("pairs", "tokenizer"), [(CHINESE, "zh"), (ENGLISH, "13a")])
def test_summed_row_by_row_the_scores_are_sacrebleu_s_corpus_scores(pairs, tokenizer):
    answers, references = [list(texts) for texts in zip(*pairs, strict=True)]
    summary = scored(pairs)
    assert summary["bleu"] == pytest.approx(BLEU(tokenize=tokenizer).corpus_score(answers, [references]).score)
    assert summary["chrf"] == pytest.approx(CHRF().corpus_score(answers, [references]).score)


def test_exact_match_is_a_share_of_rows():
    assert scored(CHINESE)["exact_match"] == pytest.approx(1 / 3)
    assert scored([(" a \n", "a")])["exact_match"] == 1.0


def test_perfect_answers_have_perfect_scores():
    assert scored([(reference, reference) for _, reference in CHINESE + ENGLISH]) == pytest.approx(
        {"exact_match": 1.0, "chrf": 100.0, "bleu": 100.0, "rouge_l": 1.0}
    )


def test_no_rows_score_nothing():
    assert scored([]) == {"exact_match": 0.0, "chrf": 0.0, "bleu": 0.0, "rouge_l": 0.0}


@pytest.mark.parametrize(("answer", "reference"), [*ENGLISH, ("", "a b"), ("Mixed CASE words", "mixed case words")])
def test_rouge_l_is_the_reference_implementation_s_for_words(answer, reference):
    wanted = RougeScorer(["rougeL"]).score(reference, answer)["rougeL"].fmeasure
    assert rouge_l(answer, reference) == pytest.approx(wanted)


def test_rouge_l_goes_by_character_in_chinese():
    # longest common subsequence 早睡早起 (4) of 5 and 6 characters: 2 * 4 / 11
    assert rouge_l("要早睡早起", "每天早睡早起") == pytest.approx(8 / 11)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("如何睡好？", True),
        ("用 Python 写代码", True),
        ("hello", False),
        ("a 中 letter among many words", False),
        ("", False),
    ],
)
def test_chinese_is_recognised_by_a_third_of_its_characters(text, expected):
    assert is_chinese(text) is expected


def test_reasoning_is_left_out_of_the_comparison():
    assert without_reasoning("<think>\nhm\n</think>\n\n 2 ") == "2"
    assert scored([("<think>a</think>2", "<think>b</think>\n2")])["exact_match"] == 1.0


@pytest.mark.parametrize(("answer", "reference"), CHINESE + ENGLISH)
def test_a_row_by_itself_has_the_scores_of_a_corpus_of_one(answer, reference):
    whole = scored([(answer, reference)])
    assert row_scores(answer, reference) == pytest.approx(
        {key: whole[key] for key in ("exact_match", "chrf", "rouge_l")}
    )
