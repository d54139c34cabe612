"""Patterns of strangers choose what they say, in no more than a second, and reach PEFT as names."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.model_config.adapters.layer_names import (
    PatternError,
    chosen_by,
    pattern_of,
    plain_pattern,
    resolved_patterns,
)

LAYERS = [f"model.layers.{number}.{part}" for number in range(12) for part in ("self_attn.q_proj", "mlp.up_proj")]
LAYERS += ["lm_head", "visual.layers.0.self_attn.q_proj"]
SOUND = [
    r".*q_proj",
    r"model\.layers\.\d+\.mlp\.up_proj",
    r"^(?!.*visual).*(?:q_proj|up_proj).*",
    r"(?:.*?(?:model).*?(?:self_attn|mlp).*?(?:q_proj|k_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.mlp\.up_proj)",
    r"model\.layers\.(0|1|11)\..*",
    r"lm_head",
]


@pytest.mark.parametrize("pattern", SOUND)
def test_a_sound_pattern_chooses_what_it_does_for_peft(pattern):
    wanted = [name for name in LAYERS if re.fullmatch(pattern, name)]
    assert wanted
    assert chosen_by(pattern, LAYERS) == wanted
    assert [name for name in LAYERS if re.fullmatch(plain_pattern(pattern, LAYERS), name)] == wanted


EVIL = ["(a+)+$", "(.+)+x", "(.|..)*" * 5 + "x", "(.*)*(.*)*(.*)*x", "(.|..)" * 60 + "x", ".*" * 30 + "x"]


@pytest.mark.parametrize("pattern", EVIL)
def test_a_pattern_that_would_take_years_ends(pattern):
    started = time.monotonic()
    said = ""
    try:
        plain_pattern(pattern, LAYERS)
    except PatternError as error:
        said = str(error)
    assert not said or "takes more than a second" in said
    assert time.monotonic() - started < 10


REFUSED = {
    "(q_proj": "is not a regular expression",
    "(?R)": "is not a regular expression",
    r"\pL+": "is not a regular expression",
    "(a{9999999}){9999999}": "counts with other than single digits",
    "a{1}" * 5: "counts with other than single digits",
    "(q_proj){e<=3}": "counts with other than single digits",
    "a" * 200_001: "200001 characters, more than 200000",
}


@pytest.mark.parametrize("pattern", REFUSED)
def test_what_is_no_pattern_for_peft_is_none_here(pattern):
    with pytest.raises(PatternError, match=REFUSED[pattern]):
        chosen_by(pattern, LAYERS)


@given(chosen=st.sets(st.sampled_from(LAYERS), min_size=1))
@settings(derandomize=True, max_examples=60, deadline=None)
def test_names_written_as_a_pattern_are_these_names(chosen):
    pattern = pattern_of(sorted(chosen), LAYERS)
    assert {name for name in LAYERS if re.fullmatch(pattern, name)} == chosen


def test_values_by_patterns_become_values_by_names_and_the_first_counts():
    def value_for_peft(values, name):
        return next((value for key, value in values.items() if re.match(rf"(.*\.)?({key})$", name)), None)

    values = {r"model\.layers\.[01]\..*": 4, ".*q_proj": 2, "up_proj": 1}
    resolved = resolved_patterns(values, LAYERS)
    assert [value_for_peft(resolved, name) for name in LAYERS] == [value_for_peft(values, name) for name in LAYERS]
    assert resolved_patterns({"q_proj": 4, "model.layers.0": 2}, LAYERS) == {"q_proj": 4, "model.layers.0": 2}
    with pytest.raises(PatternError, match="has 20001 entries, more than"):
        resolved_patterns({str(number): 1 for number in range(20_001)}, LAYERS)
