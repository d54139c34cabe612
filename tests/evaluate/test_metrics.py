import math

import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from lorakit.evaluate.metrics import AnswerScores, bleu_tokenizer, rouge_l, row_scores, without_reasoning

CHINESE = [("每天早睡早起，多喝水。", "每天早睡早起，少吃糖。"), ("不知道", "多运动，少熬夜。"), ("对。", "对。")]
ENGLISH = [("the cat sat on the mat", "the cat is on the mat"), ("a dog barks loudly here", "a dog barks loudly here")]


def scored(pairs):
    scores = AnswerScores(bleu_tokenizer(reference for _, reference in pairs))
    for answer, reference in pairs:
        scores.add(answer, reference)
    return scores.summary()


@pytest.mark.parametrize(("pairs", "tokenizer"), [(CHINESE, "zh"), (ENGLISH, "13a")])
def test_summed_row_by_row_the_scores_are_sacrebleu_s_corpus_scores(pairs, tokenizer):
    answers, references = [list(texts) for texts in zip(*pairs, strict=True)]
    summary = scored(pairs)
    long_enough = [pair for pair in pairs if pair[1] != "对。"]  # the others have no run of four
    assert summary["bleu_rows"] == len(long_enough)
    texts = [list(texts) for texts in zip(*long_enough, strict=True)]
    assert summary["bleu"] == pytest.approx(BLEU(tokenize=tokenizer).corpus_score(texts[0], [texts[1]]).score)
    assert summary["chrf"] == pytest.approx(CHRF().corpus_score(answers, [references]).score)


def test_exact_match_is_a_share_of_rows():
    assert scored(CHINESE)["exact_match"] == pytest.approx(1 / 3)
    assert scored([(" a \n", "a")])["exact_match"] == 1.0


def test_perfect_answers_have_perfect_scores():
    assert scored([(reference, reference) for _, reference in CHINESE + ENGLISH]) == pytest.approx(
        {"exact_match": 1.0, "chrf": 100.0, "bleu": 100.0, "rouge_l": 1.0, "bleu_rows": 4}
    )


def test_no_rows_score_nothing():
    assert scored([]) == {"exact_match": 0.0, "chrf": 0.0, "bleu": 0.0, "rouge_l": 0.0, "bleu_rows": 0}


@pytest.mark.parametrize(("answer", "reference"), [*ENGLISH, ("", "a b"), ("Mixed CASE words", "mixed case words")])
def test_rouge_l_is_the_reference_implementation_s_for_words(answer, reference):
    wanted = RougeScorer(["rougeL"]).score(reference, answer)["rougeL"].fmeasure
    assert rouge_l(answer, reference) == pytest.approx(wanted)


def test_rouge_l_goes_by_character_in_chinese():
    # longest common subsequence 早睡早起 (4) of 5 and 6 characters: 2 * 4 / 11
    assert rouge_l("要早睡早起", "每天早睡早起") == pytest.approx(8 / 11)


@pytest.mark.parametrize("text", ["对", "yes", "👍🏽", "🇨🇳 ❤️", "...", "ไทย", "42"])
def test_an_exact_answer_of_one_word_or_sign_is_not_called_wrong_by_any_score(text):
    summary = scored([(text, text)])
    assert summary["exact_match"] == summary["rouge_l"] == 1
    assert math.isnan(summary["bleu"])
    assert summary["bleu_rows"] == 0


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("A中国", "中国", 4 / 5),  # pieces: a 中 国
        ("x\U00020000", "\U00020000", 2 / 3),  # a rare Han character behind a Latin letter
        ("หมา", "หมู", 2 / 5),  # ห ม า, and ห มู, whose vowel is a mark on its consonant
        ("नमस्ते दुनिया", "नमस्ते", 2 / 3),  # two words, marks and all
        ("👍", "👎", 0.0),
        ("", "👎", 0.0),
        ("コーヒー", "コーラ", 4 / 7),  # コ ー ヒ ー, and コ ー ラ
    ],
)
def test_words_and_characters_are_parted_as_their_script_parts_them(answer, reference, expected):
    assert rouge_l(answer, reference) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["如何睡好？", "hello"], "zh"),
        (["用 Python 写代码"], "zh"),
        (["hello", "a 中 letter among many words of English"], "13a"),
        (["今日は天気がいい。", "東京都"], "char"),
        (["สวัสดีครับ"], "char"),
        (["नमस्ते दुनिया"], "13a"),
        ([], "13a"),
    ],
)
def test_one_tokenizer_serves_all_rows_of_a_file(texts, expected):
    assert bleu_tokenizer(texts) == expected


def test_reasoning_is_left_out_of_the_comparison():
    assert without_reasoning("<think>\nhm\n</think>\n\n 2 ") == "2"
    assert without_reasoning("</think>\n\n2") == "2"  # where the prompt has opened it, and nothing is thought
    assert scored([("<think>a</think>2", "<think>b</think>\n2")])["exact_match"] == 1.0


@pytest.mark.parametrize(("answer", "reference"), CHINESE + ENGLISH)
def test_a_row_by_itself_has_the_scores_of_a_corpus_of_one(answer, reference):
    whole = scored([(answer, reference)])
    assert row_scores(answer, reference) == pytest.approx(
        {key: whole[key] for key in ("exact_match", "chrf", "rouge_l")}
    )
