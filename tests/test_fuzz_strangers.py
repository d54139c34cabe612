"""Made-up folders, files and lines of strangers: what they are read by succeeds, or says one sentence. Nothing else.

``make fuzz`` looks for more of them, for ten minutes each, and keeps what it finds in tests/seeds.
"""

import io
import json
import re
import resource
import shutil
import time
from pathlib import Path

import pytest
import torch
from bad_input import Lab, listed_anew
from conftest import family_tokenizer
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from random_adapters import save_random_adapter
from safetensors.torch import load_file
from searching import counted, trying
from transformers import TrainerState

from lorakit.cli import main
from lorakit.cli.failures import fault_of_surroundings
from lorakit.config import Config
from lorakit.data_processing import ChatFormat
from lorakit.data_processing.images import ImageFormat
from lorakit.engine import DtypeChoice
from lorakit.errors import LorakitError
from lorakit.inference.adapters import Adapters
from lorakit.inference.commands import COMMANDS, obey
from lorakit.inference.session import Session
from lorakit.model_config import AdapterChoice, load_model, load_tokenizer, locate_model
from lorakit.model_config.adapters.settings import lora_config
from lorakit.outgoing import for_a_screen
from lorakit.runs import read_identity, read_records
from lorakit.train.checkpoints.checkpoint_state import fault_of_state
from lorakit.train.checkpoints.resuming import find_earlier_run
from lorakit.train.checkpoints.saving import _reading as naming_part
from lorakit.train.checkpoints.state_files import read_state

pytestmark = pytest.mark.slow
MOST_SECONDS, MOST_BYTES = 10, 1_000_000_000
searching = trying(150)


def bounded(call):
    """Call something; hold it to a sentence, ten seconds and a gigabyte."""
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        return counted(call)
    except LorakitError as error:
        said = error.message
    except (Exception, MemoryError) as error:
        fault = fault_of_surroundings(error)
        if fault is None:
            raise
        said = fault.message
    finally:
        assert time.process_time() - started < MOST_SECONDS
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST_BYTES
    assert 0 < len(said) < 20_000
    return None


plain = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10))
anything = st.recursive(
    plain,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def lab(model_folder, tmp_path_factory):
    """A tiny model in memory, its names of layers, and a sound adapter."""
    folder = tmp_path_factory.mktemp("fuzz")
    base = model_folder("llama")
    source = locate_model(str(base), "huggingface")
    tokenizer = load_tokenizer(source)
    bundle = load_model(source, tokenizer, DtypeChoice(torch.float32, "test"), torch.device("cpu"))
    adapter = save_random_adapter(base, folder / "adapter")
    layers = [name for name, _ in bundle.model.named_modules() if name]
    return folder, bundle, tokenizer, adapter, layers


FIELDS = (
    *("r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "modules_to_save", "rank_pattern"),
    *("alpha_pattern", "layers_to_transform", "layers_pattern", "init_lora_weights", "use_dora", "bias", "peft_type"),
    *("megatron_config", "megatron_core", "auto_mapping", "eva_config", "corda_config", "layer_replication"),
    *("trainable_token_indices", "target_parameters", "use_rslora", "runtime_config", "task_type", "lora_bias"),
)
patterns = st.one_of(
    st.text(alphabet=r"abcq_proj.*+?()[]{}|\d^$0123456789", max_size=40),
    st.from_regex(r"(\(\.[*+]\)[*+]){1,6}x", fullmatch=True),
    st.sampled_from(["all-linear", ".*q_proj", "(a+)+$", "(.|..)" * 30 + "x", "q_proj"]),
)


@searching
@given(changes=st.dictionaries(st.sampled_from(FIELDS), st.one_of(anything, patterns), min_size=1, max_size=3))
@example(changes={"target_modules": "(a{9999999}){9999999}"})
@example(changes={"rank_pattern": {"": 8}})
@example(changes={"lora_alpha": float("nan")})
@example(changes={"layers_pattern": "all-linear"})
@example(changes={"target_modules": "", "layers_pattern": "0"})
@example(changes={"target_modules": "", "layers_to_transform": 0})
def test_settings_of_an_adapter(lab, changes):
    folder, _, _, adapter, layers = lab
    content = json.loads((adapter / "adapter_config.json").read_text()) | changes
    made = bounded(lambda: lora_config(content, folder, layers))
    assert made is None or made.megatron_config is None


def mutated(draw, content, most=4):
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, most))):
        start = draw(st.integers(0, len(changed)))
        end = min(start + draw(st.sampled_from([0, 1, 1, 4, 40])), len(changed))
        changed[start:end] = draw(
            st.one_of(st.binary(max_size=6), st.just(bytes(changed[start:end]) * 2), st.just(b""))
        )
    return bytes(changed)


@searching
@given(data=st.data())
def test_a_folder_of_an_adapter(lab, data):
    folder, bundle, tokenizer, adapter, _ = lab
    damaged = folder / "damaged"
    shutil.rmtree(damaged, ignore_errors=True)
    shutil.copytree(adapter, damaged)
    file = damaged / data.draw(st.sampled_from(["adapter_model.safetensors", "adapter_config.json"]))
    whole = file.read_bytes()
    head = len(whole) if file.suffix == ".json" else 8 + int.from_bytes(whole[:8], "little")
    file.write_bytes(mutated(data.draw, whole[:head]) + whole[head:])
    adapters = Adapters(bundle, ChatFormat(tokenizer), Config())
    bounded(lambda: adapters.load(AdapterChoice("damaged", damaged)))
    for choice in adapters.choices:
        adapters.unload(choice.name)


@searching
@given(data=st.data())
def test_a_header_of_weights(model_folder, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("model") / "model"
    shutil.copytree(model_folder("llama"), folder)
    try:
        file = folder / data.draw(st.sampled_from(["model.safetensors", "config.json", "generation_config.json"]))
        whole = file.read_bytes()
        head = len(whole) if file.suffix == ".json" else 8 + int.from_bytes(whole[:8], "little")
        file.write_bytes(mutated(data.draw, whole[:head]) + whole[head:])

        def load():
            source = locate_model(str(folder), "huggingface")
            source.fingerprint()
            load_model(source, load_tokenizer(source), DtypeChoice(torch.float32, "test"), torch.device("cpu"))

        bounded(load)
    finally:
        shutil.rmtree(folder.parent)


events = st.one_of(
    anything,
    st.fixed_dictionaries(
        {"event": st.one_of(st.sampled_from(["step", "plan", "memory", "evaluation"]), anything)},
        optional=dict.fromkeys(("step", "loss", "epoch", "max_tokens", "planned_parts", "peak_bytes"), anything),
    ),
)


@searching
@given(lines=st.lists(st.one_of(events.map(json.dumps), st.text(max_size=20)), max_size=4), identity=anything)
@example(lines=["[" * 100_000], identity=5)
def test_records_of_a_run(tmp_path_factory, lines, identity):
    folder = tmp_path_factory.mktemp("run")
    (folder / "events.jsonl").write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
    (folder / "run.json").write_text(json.dumps(identity))
    bounded(lambda: list(read_records(folder)))
    bounded(lambda: read_identity(folder))
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def run_left(model_folder, tmp_path_factory):
    """What a training of a few steps leaves."""
    folder = tmp_path_factory.mktemp("left")
    lab = Lab(folder, model_folder, folder / "none")
    quick = ("--num_train_epochs", "1", "--learning_rate", "0.01", "--set=max_new_tokens=1", "--set=cpu_kernels=false")
    assert main(lab.command("train", *quick)) == 0
    return folder / "out"


def read_checkpoint(folder):
    """Read all of a checkpoint that resuming does."""
    found = find_earlier_run(Config(resume="auto"), folder)
    if found is None:
        return
    assert 0 < found.plan.max_tokens < 2**53
    list(read_records(folder))
    for file in found.checkpoint.glob("*.safetensors"):
        with naming_part(file):
            read_state(file) if "tree" in file.read_text(errors="replace") else load_file(file)


@searching
@given(data=st.data())
def test_a_folder_of_a_run(run_left, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("run") / "out"
    shutil.copytree(run_left, folder)
    checkpoint = max(folder.glob("checkpoint-*"))
    for _ in range(data.draw(st.integers(1, 2))):
        file = data.draw(st.sampled_from([*sorted(checkpoint.glob("*.*")), *sorted(folder.glob("*.json*"))]))
        whole = file.read_bytes()
        head = len(whole) if file.suffix != ".safetensors" else 8 + int.from_bytes(whole[:8], "little")
        file.write_bytes(mutated(data.draw, whole[:head]) + whole[head:])
    if data.draw(st.booleans()):
        listed_anew(checkpoint)
    bounded(lambda: read_checkpoint(folder))
    shutil.rmtree(folder.parent)


STATE = ("global_step", "max_steps", "epoch", "log_history", "stateful_callbacks", "best_model_checkpoint", "x")


@searching
@given(changes=st.dictionaries(st.sampled_from(STATE), anything, max_size=3))
def test_the_state_in_a_checkpoint(tmp_path_factory, changes):
    folder = tmp_path_factory.mktemp("run") / "checkpoint-3"
    folder.mkdir()
    state = TrainerState(global_step=3)
    state.stateful_callbacks = {}
    state.save_to_json(str(folder / "trainer_state.json"))
    file = folder / "trainer_state.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    if bounded(lambda: fault_of_state(folder)) is None:
        TrainerState.load_from_json(str(file))
    shutil.rmtree(folder.parent)


pieces = st.sampled_from(
    [
        *("{{ messages }}", "{{ messages[0].content }}", "{{ bos_token }}", "{% for m in messages %}", "{% endfor %}"),
        *(
            "{% if add_generation_prompt %}",
            "{% endif %}",
            "{{ 9**9 }}",
            "{{ 'x' * 10**9 }}",
            "{{ m.role }}",
            "<|eot_id|>",
        ),
        *("{% for a in range(99999) %}", "{{ raise_exception('x') }}", "{% set x = x + x %}", "{{ ''.__class__ }}"),
        *("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{{ messages | tojson }}", "{{ m.content }}", "{{", "%}"),
    ]
)


@searching
@given(template=st.lists(st.one_of(pieces, st.text(max_size=5)), max_size=8).map("".join))
def test_chat_templates(template):
    tokenizer = family_tokenizer("llama")
    tokenizer.chat_template = template or " "
    bounded(lambda: ChatFormat(tokenizer))


class _Processor:
    patch_size, merge_size = 14, 2


@pytest.fixture(scope="module")
def sound_pictures():
    def saved(name):
        stream = io.BytesIO()
        Image.new("RGB", (40, 40), "red").save(stream, format=name)
        return stream.getvalue()

    return {name: saved(name) for name in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO")}


@searching
@given(data=st.data())
def test_pictures(tmp_path_factory, sound_pictures, data):
    file = tmp_path_factory.mktemp("picture") / "x.png"
    file.write_bytes(mutated(data.draw, sound_pictures[data.draw(st.sampled_from(sorted(sound_pictures)))]))
    images = ImageFormat(_Processor(), 5, 28 * 28, 28 * 28 * 64)
    bounded(lambda: images.measure(str(file)))
    shutil.rmtree(file.parent)


words = st.one_of(
    st.sampled_from([*COMMANDS, "base", "slot0000", "x=", "=", ":0.5", ":nan", "'", '"', "\\"]), st.text(max_size=9)
)


@searching
@given(
    line=st.builds(
        lambda name, rest: f"{name} {' '.join(rest)}", st.sampled_from(list(COMMANDS)), st.lists(words, max_size=4)
    )
)
@example(line="/load " + "x" * 6000)
@example(line="/load \0")
@example(line="/image " + "x" * 6000)
@example(line="/mix a:1e999 b:-1e999")
def test_lines_of_a_session(lab, line):
    _, bundle, tokenizer, _, _ = lab
    session = Session(Adapters(bundle, ChatFormat(tokenizer), Config(max_new_tokens=1)), Config(max_new_tokens=1))
    if not line.startswith("/load /") and not re.match(r"/compare", line):
        bounded(lambda: obey(session, line))


@searching
@given(text=st.text())
def test_what_is_printed(text):
    shown = counted(for_a_screen, text)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown)
    assert for_a_screen(shown) == shown


def test_seeds_that_were_found_are_kept():
    assert (Path(__file__).parent / "seeds" / "README.md").is_file()
