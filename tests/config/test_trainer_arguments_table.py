"""Every field of the installed TrainingArguments is obeyed, without effect on numbers, or refused with a remedy."""

from dataclasses import fields

from trainer_fields import CHANGING, ELSEWHERE, OF_THE_COURSE, WITHOUT_EFFECT
from transformers import TrainingArguments

from lorakit.config.trainer_arguments import _SENDING, OWNED


def test_no_field_is_passed_on_without_a_decision():
    known = {field.name for field in fields(TrainingArguments) if field.init}
    refused = set(OWNED) | {name for name in known if name.startswith(_SENDING)}
    tables = [set(CHANGING), set(OF_THE_COURSE), set(WITHOUT_EFFECT), ELSEWHERE, refused]
    assert known - set().union(*tables) == set()
    assert sum(map(len, tables)) == len(set().union(*tables))
