"""A template of a stranger's ends in time, and takes no more memory than a gigabyte."""

import threading
import time

import pytest
from conftest import CHATML, real_template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lorakit.data_processing.templates import bounded
from lorakit.data_processing.templates.bounded import LimitError, fault_of_template, within_limits

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DOUBLING = "{% set n = namespace(x='x') %}{% for a in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}"


def rendered(template):
    return within_limits(lambda: ImmutableSandboxedEnvironment().from_string(template).render())


@pytest.fixture(autouse=True)
def shorter(monkeypatch):
    monkeypatch.setattr(bounded, "MOST_SECONDS", 0.3)


def test_an_endless_loop_is_stopped_in_the_main_thread_and_in_others():
    found = []

    def try_it():
        started = time.monotonic()
        with pytest.raises(LimitError, match=r"takes more than 0\.3 seconds"):
            rendered(LOOP)
        found.append(time.monotonic() - started)

    try_it()
    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    assert len(found) == 2
    assert max(found) < 10


@pytest.mark.skipif(not bounded.sys.platform.startswith("linux"), reason="other systems have no such limit")
@pytest.mark.parametrize("template", [DOUBLING, "{{ 'x' * 9000000000 }}", "{{ 'x'.ljust(9000000000) }}"])
def test_a_template_that_would_fill_the_memory_is_stopped(monkeypatch, template):
    monkeypatch.setattr(bounded, "MOST_SECONDS", 60)
    with pytest.raises(LimitError, match="takes more than 1 GB of memory"):
        rendered(template)


def test_what_ends_is_returned_and_its_errors_are_its_own():
    assert within_limits(lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        within_limits(lambda: 1 // 0)
    assert within_limits(lambda: within_limits(lambda: 6)) == 6


HOPELESS = [
    "{{ 9**9**9 }}",
    "{% set x = 2 ** y %}",
    "{{ x * x }}",
    "{{ x * 1001 }}",
    "{% generation %}{{ 9**9 }}{% endgeneration %}",
]


@pytest.mark.parametrize("template", HOPELESS)
def test_an_operation_that_no_time_could_stop_is_found(template):
    assert fault_of_template(template) is not None


@pytest.mark.parametrize("name", ["qwen3", "qwen3_instruct_2507", "qwen2_5", "llama3", "llama3_1", "phi3", "gemma"])
def test_templates_of_real_models_are_taken(name):
    assert fault_of_template(real_template(name)) is None


@pytest.mark.parametrize(
    "template", [CHATML, "{{ ' ' * 4 }}", "{{ loop.index0 * 2 }}", "{% if", "{% generation %}**{% endgeneration %}"]
)
def test_what_is_harmless_is_taken(template):
    assert fault_of_template(template) is None
