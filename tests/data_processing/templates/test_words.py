"""A text cut into words has the tokens that it has whole."""

import pytest
from conftest import examples, family_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, pre_tokenizers

from lorakit.data_processing.templates.words import Words

BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT_OSS = "|".join(
    [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ]
)


def split(regex):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(regex), "isolated"), BYTES])


SPLITTINGS = {
    "GPT-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "SmolLM2": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "Qwen": split(LETTERS + r"\p{N}" + REST),
    "Llama 3": split(LETTERS + r"\p{N}{1,3}" + REST),
    "gpt-oss": split(GPT_OSS),
}
PIECE = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.sampled_from(
        [" ", "  ", "\n", " \n", "\t", "\u3000", "\u00a0", "'s", "'", "a", "B", "17", "4567", ",", ".", "?!"]
    ),
    st.sampled_from(["，", "。", "的", "好吗", "—", "é", "e\u0301", "\u200b", "//", " (", ") "]),
)


def words_of(splitting):
    backend = family_tokenizer("gpt2").backend_tokenizer
    backend.pre_tokenizer = splitting
    return backend, Words(backend)


@pytest.mark.every(3)
@pytest.mark.generated
@pytest.mark.parametrize("name", SPLITTINGS)
def test_a_text_cut_into_words_has_the_tokens_that_it_has_whole(name):
    backend, words = words_of(SPLITTINGS[name])
    assert words._cut is not None

    @settings(max_examples=examples(600), deadline=None)
    @given(st.lists(PIECE, max_size=12).map("".join))
    def hold(text):
        [found] = words.encode_all([text])
        assert memoryview(found).cast("i").tolist() == backend.encode(text, add_special_tokens=False).ids

    hold()


def test_a_word_is_encoded_once():
    backend, words = words_of(SPLITTINGS["Qwen"])
    texts = ["How far is it?", "How far is Rome? How far"]
    found = words.encode_all(texts)
    assert set(words._known) == {"How", " far", " is", " it", "?", " Rome", " How"}
    assert [memoryview(ids).cast("i").tolist() for ids in found] == [
        backend.encode(text, add_special_tokens=False).ids for text in texts
    ]


@pytest.mark.parametrize(
    "splitting",
    [
        split(r"\w+ \w+"),
        split(r"[^\n]+|\n"),
        pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\s+"), "merged_with_next"), BYTES]),
        pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "removed"), BYTES]),
    ],
)
def test_where_a_tokenizer_may_look_over_spaces_nothing_is_cut(splitting):
    backend, words = words_of(splitting)
    assert words._cut is None
    [found] = words.encode_all(["a b"])
    assert memoryview(found).cast("i").tolist() == backend.encode("a b", add_special_tokens=False).ids


@pytest.mark.parametrize("token", [AddedToken("a b"), AddedToken("<x>", lstrip=True), AddedToken("<x>", rstrip=True)])
def test_tokens_that_have_or_take_spaces_are_not_cut_apart(token):
    backend, _ = words_of(SPLITTINGS["Qwen"])
    backend.add_tokens([token])
    assert Words(backend)._cut is None
