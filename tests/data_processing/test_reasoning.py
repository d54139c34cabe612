import pytest

from lorakit.data_processing.reasoning import split_reasoning

ANSWERS = [
    ("<think>\nwhy\n</think>\n\nso", ("why", "so")),
    ("<think>x</think>y", ("x", "y")),
    ("\n<think>\na\n\nb\n</think>\n\n so ", ("a\n\nb", " so ")),
    ("<think>\n\n</think>\n\nso", (None, "so")),
    ("<think>x</think>use </think> to close", ("x", "use </think> to close")),
    ("why\n</think>\n\nso", ("why", "so")),
    ("Qwen writes <think> first and </think> last", (None, "Qwen writes <think> first and </think> last")),
    ("</think> closes it", (None, "</think> closes it")),
    ("the tag </think> closes it", (None, "the tag </think> closes it")),
    ("<think>never closed", (None, "<think>never closed")),
    ("plain\n", (None, "plain\n")),
    (
        "<|begin_of_thought|>\n\na\n\nb\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\nso\n\n<|end_of_solution|>",
        ("a\n\nb", "so"),
    ),
    ("<|begin_of_thought|>why<|end_of_thought|>\n\nso", ("why", "so")),
    ("[THINK]why[/THINK]so", ("why", "so")),
    ("\n◁think▷why◁/think▷so", ("why", "so")),
    ("<seed:think>why</seed:think>\nso", ("why", "so")),
    ("[THINK] begins it", (None, "[THINK] begins it")),
    ("It writes [THINK]why[/THINK]", (None, "It writes [THINK]why[/THINK]")),
    ("<thinking>the user's own</thinking>so", (None, "<thinking>the user's own</thinking>so")),
]


@pytest.mark.parametrize(("answer", "parts"), ANSWERS)
def test_reasoning_is_what_stands_between_tags_at_the_beginning(answer, parts):
    assert split_reasoning(answer) == parts


def test_where_the_prompt_has_opened_the_reasoning_a_closing_tag_behind_a_word_ends_it():
    assert split_reasoning("why</think>so", is_begun=True) == ("why", "so")
    assert split_reasoning("why</think>so") == (None, "why</think>so")
    assert split_reasoning("write `</think>` or </think> so", is_begun=True)[0] is None
