"""Whatever stands in config.yaml or after --set: a Config or one SettingsError. Nothing else ever comes out."""

import tempfile
from pathlib import Path

import pytest
from conftest import ROOT, examples
from hypothesis import example, given
from hypothesis import strategies as st
from searching import counted, trying

from lorakit.config import load_config
from lorakit.config.listing import settings as all_settings
from lorakit.errors import SettingsError

VALID = (
    (ROOT / "config.yaml").read_bytes()
    + b"""
trainer_args: &more {save_steps: 5, lr_scheduler_type: cosine}
"""
)
pytestmark = pytest.mark.generated
few = trying(examples(300))
NAMES = [setting.name for setting in all_settings()]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "config.yaml"


def outcome(file, assignments=()):
    try:
        counted(load_config, file, {}, list(assignments))
    except SettingsError as error:
        said = str(error)
    else:
        return
    assert "hint: " in said


def outcome_of(file, content):
    file.write_bytes(content)
    outcome(str(file))


@few
@given(
    content=st.one_of(st.binary(max_size=100), st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace")))
)
@example(content=b"? [1]\n: 2")
@example(content=b"seed: !!timestamp x")
@example(content=b"seed: !!bool x")
@example(content=b"seed: !!float ''")
@example(content=b"<<: [{seed: 1}, {seed: 2}]")
@example(content=b"<<: 5")
@example(content=b"lora_r: 0x" + b"f" * 5000)
@example(content=b"lora_dropout: 1e999")
@example(content=b"seed: -")
@example(content=b"seed: 1:99:99")
@example(content=b"&a *a : 1")
def test_any_content_of_a_file_is_a_configuration_or_one_error(file, content):
    outcome_of(file, content)


@st.composite
def mutated(draw):
    """The project's own config.yaml with a few pieces changed, taken away, doubled or put in."""
    changed = VALID.decode()
    signs = st.text(alphabet="&*!:-?|>[]{}<%@`'\"#,\n\t 0.e~", max_size=6)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(changed)))
        end = min(start + draw(st.sampled_from([0, 1, 3, 30])), len(changed))
        piece = draw(
            st.one_of(signs, st.just(changed[start:end] * 2), st.sampled_from(["*more", "&more ", "<<: *more"]))
        )
        changed = changed[:start] + piece + changed[end:]
    return changed.encode()


@trying(examples(600))
@given(content=mutated())
def test_a_sound_file_with_damage_is_a_configuration_or_one_error(file, content):
    outcome_of(file, content)


tags = st.sampled_from(["!!int ", "!!float ", "!!timestamp ", "!!binary ", "!!set ", "!!omap ", "!!python/name:"])
scalars = st.sampled_from(["1", "a", "null", "true", "1.5", "''"])
nested = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(scalars, inner, max_size=3).map(
            lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs.items()) + "}"
        ),
    ),
    max_leaves=6,
)
texts = st.one_of(
    nested,
    st.text(max_size=20),
    st.builds(lambda tag, text: tag + text, tags, st.text(alphabet="01.:-xabcQ=", max_size=8)),
    st.from_regex(r"[-+]?[0-9_:.eExob]{1,12}", fullmatch=True),
    st.from_regex(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([ T][0-9:.+Z-]{0,12})?", fullmatch=True),
)


@trying(examples(800))
@given(name=st.sampled_from(NAMES), text=texts)
def test_any_value_of_any_setting_is_taken_or_one_error(name, text):
    outcome(None, [f"{name}={text}"])


@few
@given(assignment=st.text(max_size=30))
def test_any_assignment_is_taken_or_one_error(assignment):
    outcome(None, [assignment])


@few
@given(name=st.text(max_size=30))
@example(name="\0")
@example(name="x" * 5000)
@example(name="\ud800")
@example(name=tempfile.gettempdir())
def test_any_name_of_a_file_is_read_or_one_error(name):
    if name and not Path(name.replace("\0", "")).is_absolute():
        name = f"no such folder/{name}"
    outcome(name or None)
