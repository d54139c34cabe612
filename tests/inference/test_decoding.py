"""Answers by the engine's decoder against those of transformers' ``generate``, in float32."""

import pytest
import torch
from random_adapters import plain_model, save_random_adapter
from transformers import GenerationConfig, set_seed

from lorakit.engine import PACKINGS, Decoder, decoder_fault
from lorakit.errors import RunError
from lorakit.inference.decoding import Writing, write_answers
from lorakit.inference.sampling import SamplingParams

PROMPTS = [[5, 6, 7, 8, 90, 91], [12], [300, 20, 7], [5, 6, 7, 8, 90, 14, 15], [401, 402, 403]]


@pytest.fixture(params=["llama", "qwen3"])
def model(request, model_folder):
    made = plain_model(model_folder(request.param))
    if fault := decoder_fault(made):
        pytest.skip(fault)
    return made


def written(model, prompts=PROMPTS, stop=(), most=12, params=None, **more):
    writing = Writing([most] * len(prompts), stop, params or SamplingParams(most), at_once=2, **more)
    return write_answers(Decoder(model), prompts, writing)


def generated(model, prompt, stop=(), most=12, **changes):
    given = {"do_sample": False, "eos_token_id": list(stop) or None, "pad_token_id": 0, "max_new_tokens": most}
    with torch.no_grad():
        ids = model.generate(torch.tensor([prompt]), generation_config=GenerationConfig(**given | changes))
    return ids[0, len(prompt) :].tolist()


def test_greedy_answers_are_those_of_transformers_whoever_is_beside(model):
    assert written(model) == [generated(model, prompt) for prompt in PROMPTS]


def test_an_answer_ends_with_its_stop_token_and_leaves_the_batch(model, monkeypatch):
    whole = written(model)
    stop = (whole[0][3], whole[2][5])
    wanted = [generated(model, prompt, stop) for prompt in PROMPTS]
    sizes = []
    step = Decoder.step
    monkeypatch.setattr(
        Decoder, "step", lambda self, ids, *rest, **more: sizes.append(len(ids)) or step(self, ids, *rest, **more)
    )
    assert written(model, stop=stop) == wanted
    assert {len(answer) for answer in wanted} > {12}  # some end, some do not
    tokens_after_the_first = sum(len(answer) - 1 for answer in wanted)
    assert sum(sizes) <= tokens_after_the_first + sum(map(len, PROMPTS))  # nothing is computed for who has ended


@pytest.mark.parametrize("penalty", [0.8, 1.3])
def test_repetition_is_punished_as_in_transformers(model, penalty):
    found = written(model, params=SamplingParams(12, repetition_penalty=penalty))
    assert found == [generated(model, prompt, repetition_penalty=penalty) for prompt in PROMPTS]
    assert found != written(model)


def test_sampling_draws_as_transformers_does(model):
    params = SamplingParams(12, temperature=1.7, top_p=0.8)
    set_seed(3)
    [found] = written(model, PROMPTS[:1], params=params)
    set_seed(3)
    wanted = generated(model, PROMPTS[0], do_sample=True, temperature=1.7, top_p=0.8, top_k=0)
    assert found == wanted
    assert found != generated(model, PROMPTS[0])


def test_what_is_sampled_with_a_seed_does_not_depend_on_the_others(model):
    params, seeds = SamplingParams(12, temperature=2.0, top_p=0.9), [1, 2, 3, 4, 5]
    together = written(model, params=params, seeds=seeds)
    alone = [written(model, [one], params=params, seeds=[seed])[0] for one, seed in zip(PROMPTS, seeds, strict=True)]
    assert together == alone
    assert together != written(model, params=params, seeds=seeds[::-1])


@pytest.mark.every(3)
@pytest.mark.parametrize("packing", ["int8", "int4"])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_answers_from_packed_weights_do_not_depend_on_the_batch(model, packing, penalty):
    shared = list(range(30, 62))
    prompts = [*PROMPTS, [*shared, 7, 8], [*shared, *shared, 9], [*shared, 7, 8, 9], [401, 402]]

    def answers(batch, order):
        writing = Writing([20] * len(prompts), (), SamplingParams(20, repetition_penalty=penalty), at_once=batch)
        found = write_answers(Decoder(model, PACKINGS[packing]), [prompts[one] for one in order], writing)
        return dict(zip(order, found, strict=True))

    forward = list(range(len(prompts)))
    wanted = answers(1, forward)
    for batch in (2, 3, 5, len(prompts)):
        assert answers(batch, forward) == wanted
        assert answers(batch, forward[::-1]) == wanted


def test_each_answer_has_its_own_room(model):
    writing = Writing([3, 9, 1, 4, 5], (), SamplingParams(12), at_once=2)
    assert [len(answer) for answer in write_answers(Decoder(model), PROMPTS, writing)] == [3, 9, 1, 4, 5]


def test_who_looks_on_sees_every_token_and_may_stop_the_answer(model):
    seen = []
    whole = written(model, PROMPTS[:1])[0]
    writing = Writing([12], (), SamplingParams(12), at_once=2)
    stopped = write_answers(Decoder(model), PROMPTS[:1], writing, lambda token: seen.append(token) or len(seen) == 4)
    assert stopped == [seen] == [whole[:4]]


def test_adapters_come_and_go(model, model_folder, tmp_path):
    from peft import PeftModel

    decoder, writing = Decoder(model), Writing([12] * len(PROMPTS), (), SamplingParams(12), at_once=2)
    base = write_answers(decoder, PROMPTS, writing)
    folder = model.config.model_type
    adapter = save_random_adapter(model_folder(folder), tmp_path / "adapter", size=0.3)
    adapted = PeftModel.from_pretrained(model, str(adapter)).eval()
    tuned = write_answers(decoder, PROMPTS, writing)
    assert tuned == [generated(adapted, prompt) for prompt in PROMPTS]
    assert tuned != base
    with adapted.disable_adapter():
        assert write_answers(decoder, PROMPTS, writing) == base


@pytest.mark.parametrize("penalty", [1.0, 1.1])
def test_what_are_no_numbers_is_an_error(model, penalty):
    model.get_decoder().norm.weight.data[:] = torch.nan
    with pytest.raises(RunError, match="no numbers"):
        written(model, PROMPTS[:1], params=SamplingParams(12, repetition_penalty=penalty))
