"""What is merged or exported is read back from the disk by plain transformers and held against the adapter on its base.

Three things are compared: the effect of each adapted layer (see `probes`), the next-token distributions along greedy
answers to questions of the validation file, and the prompts that the written tokenizer makes. All of it must be within
the bounds of the number format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lorakit import __version__, console
from lorakit.config import Config
from lorakit.data_processing import Message, load_training, load_validation
from lorakit.engine import release_memory
from lorakit.errors import ProofError, SettingsError
from lorakit.export.placing import UNPROVEN, hashes_of, write_proof
from lorakit.export.proving.probes import (
    FoundEffect,
    LayerEffect,
    find_effects,
    found_share,
    measure_effects,
    share_doubt,
)
from lorakit.export.proving.rereading import ANSWER_TOKENS, Agreement, Answered, answered_by_reference, read_again
from lorakit.inference import Assistant


@dataclass(frozen=True)
class Tolerance:
    """What a number format is allowed.

    Attributes:
        rounding: Its relative error.
        mean_kl: Nats per token.
        largest_kl: Nats, at any token.
    """

    rounding: float
    mean_kl: float
    largest_kl: float


TOLERANCES = {
    "f32": Tolerance(2.0**-23, 1e-6, 1e-4),
    "f16": Tolerance(2.0**-10, 2e-4, 0.02),
    "bf16": Tolerance(2.0**-8, 2e-3, 0.1),
    "q8_0": Tolerance(2.0**-6, 0.02, 0.5),
    # Blocks of 16 or 32 normal numbers span about 4 deviations, in 2**bits steps: 2 %, 4 % and 8 % of the size.
    "q6_k": Tolerance(2.0**-5, 0.05, 1.0),
    "q5_k_m": Tolerance(2.0**-4, 0.1, 2.0),
    "q4_k_m": Tolerance(2.0**-3, 0.3, 4.0),
}
_ASIDE = ".proof-"  # of what is only needed for the proof
_LEAST_SHARE = 0.8  # of the adapter's effect, that rounding may leave
# Which round the base's own weights too: beside that noise the share is known no better than by its deviation, and an
# adapter may be there whole and still be drowned, which its answers show.
_ROUNDS_THE_BASE = ("q8_0", "q6_k", "q5_k_m", "q4_k_m")
_DEVIATIONS = 3
_MOST_NOISE = 0.5  # nats per token by which rounding changes answers, for each nat by which the adapter changes them
# Of what is computed in another format than float32, into which weights are rounded when they are read back as well.
_NOISE = {
    "float32": Tolerance(0.0, 0.0, 0.0),
    "float16": Tolerance(2.0**-10, 5e-4, 0.03),
    "bfloat16": Tolerance(2.0**-8, 0.02, 0.5),
}


@dataclass(frozen=True)
class Reference:
    """The adapter on its base, before anything is written.

    Attributes:
        effects: Of its layers.
        answered: Questions with its answers.
        computed_in: The number format of inference.
        base_kl: Nats per token by which the base alone is from these answers.
    """

    effects: tuple[LayerEffect, ...]
    answered: tuple[Answered, ...]
    computed_in: str
    base_kl: float


@dataclass(frozen=True)
class Reader:
    """How something written is read back.

    Attributes:
        name: Of the library that reads.
        load: Returns a plain model.
        prompt_ids: From a conversation to its token ids, by what was written; None where that holds no tokenizer that
            can be read here.
    """

    name: str
    load: Callable[[], Any]
    prompt_ids: Callable[[Sequence[Message]], list[int]] | None = None


def questions_of(config: Config, assistant: Assistant) -> list[Sequence[Message]]:
    """Return the questions of the validation file that will be answered, or of the training file without one."""
    limit = getattr(assistant.bundle.model.config.get_text_config(), "max_position_embeddings", None)
    asked = config.model_copy(update={"system_prompt": assistant.system_prompt})
    load = load_validation if config.has_validation else load_training
    dataset = load(asked, assistant.chat_format, limit)
    return [example.messages[:-1] for example in dataset.examples[: config.proof_questions]]


def proof_bytes(assistant: Assistant, questions: int) -> int:
    """Return what `references` takes on the disk: the distribution of every token, in float32."""
    vocabulary = assistant.bundle.model.config.get_text_config().vocab_size
    return int(4 * vocabulary * ANSWER_TOKENS * questions)


@contextmanager
def references(
    assistant: Assistant, questions: Sequence[Sequence[Message]], config: Config, folder: Path
) -> Iterator[Reference]:
    """Measure the adapter on its base; what takes much room stands in ``folder`` for as long as this context."""
    if not questions:
        raise SettingsError("validation_file: has no question to prove with", "name a file with rows")
    with TemporaryDirectory(prefix=_ASIDE, dir=folder) as temporary:
        answered = answered_by_reference(assistant, questions, config, Path(temporary))
        effects = measure_effects(assistant.bundle.model)
        with assistant.without_adapter():
            base_kl = read_again(assistant.bundle.model, assistant, answered).mean_kl
        reference = Reference(tuple(effects), tuple(answered), assistant.bundle.dtype.name, base_kl)
        del assistant  # the caller may want to free its model before this context ends
        release_memory()
        yield reference


def prove(
    reader: Reader,
    assistant: Assistant,
    reference: Reference,
    written_as: str,
    folder: Path,
    facts: dict[str, Any],
    known_faults: Sequence[str] = (),
) -> None:
    """Read back what was written, hold it against the reference, print the result and leave it in ``proof.json``.

    Args:
        reader: Of what was written.
        assistant: For the prompts; its model is not used, and may have been freed.
        reference: What it was.
        written_as: The number format, a key of `TOLERANCES`.
        folder: Gets the file.
        facts: More to be written there.
        known_faults: Found wrong already.

    Raises:
        ProofError: It is not the same within the bounds.
    """
    tolerance = _tolerance(written_as, reference.computed_in)
    model = reader.load()
    agreement = read_again(model, assistant, reference.answered)
    found = find_effects(reference.effects, model, tolerance.rounding)
    share = found_share(reference.effects, found)
    lost = [*_lost(reference, found, written_as), *_drowned(reference, agreement.mean_kl, written_as)]
    by_rounding = [*_kl_faults(agreement, tolerance)]
    by_more = [*known_faults, *_layer_faults(found), *_different_prompts(reader, reference)]
    faults = [*by_more, *by_rounding, *lost]
    record = {
        "proven": not faults,
        "faults": faults,
        "read_by": reader.name,
        "written_as": written_as,
        "computed_in": reference.computed_in,
        **{f"{name}_nats" if name.endswith("kl") else name: value for name, value in asdict(agreement).items()},
        "tolerance": asdict(tolerance),
        "layers": len(found),
        "share_of_effect_found": share,
        "base_mean_kl_nats": reference.base_kl,
        "lorakit_version": __version__,
        "files": hashes_of(path for path in folder.iterdir() if not path.name.startswith(_ASIDE)),
        **facts,
    }
    write_proof(folder, record)
    _show(agreement, found, share, tolerance, reader.name, reference.base_kl)
    if faults:
        raise ProofError(
            f"{folder}: is not the adapter on its base: {'; '.join(faults)}",
            _remedy(bool(lost), bool(by_more), written_as),
        )


def _lost(reference: Reference, found: Sequence[FoundEffect], written_as: str) -> Iterator[str]:
    share = found_share(reference.effects, found)
    doubt = _DEVIATIONS * share_doubt(reference.effects, found) if written_as in _ROUNDS_THE_BASE else 0.0
    if not share + doubt >= _LEAST_SHARE:
        yield f"{1 - share:.0%} of the adapter's effect is lost"


def _drowned(reference: Reference, mean_kl: float, written_as: str) -> Iterator[str]:
    """Tell where rounding makes other answers of the model than the adapter does."""
    noise = _NOISE[reference.computed_in].mean_kl
    if written_as in _ROUNDS_THE_BASE and mean_kl > max(_MOST_NOISE * reference.base_kl, noise):
        yield (
            f"the adapter's effect is drowned: rounding changes answers by {mean_kl:.2g} nats per token, where the "
            f"adapter changes them by {reference.base_kl:.2g}"
        )


def _tolerance(written_as: str, computed_in: str) -> Tolerance:
    pairs = zip(astuple(TOLERANCES[written_as]), astuple(_NOISE[computed_in]), strict=True)
    return Tolerance(*map(max, pairs))


def _kl_faults(agreement: Agreement, tolerance: Tolerance) -> Iterator[str]:
    for name, value, most in (
        ("mean", agreement.mean_kl, tolerance.mean_kl),
        ("largest", agreement.largest_kl, tolerance.largest_kl),
    ):
        if not value <= most:  # NaN is not
            yield f"the {name} KL divergence per token is {value:.3g} nats, more than {most:g}"


def _layer_faults(found: Sequence[FoundEffect]) -> Iterator[str]:
    wrong = [layer for layer in found if not layer.is_right]
    if wrong:
        worst = max(wrong, key=lambda layer: layer.distance)
        yield (
            f"{len(wrong)} of {len(found)} adapted layers do something else, {worst.path} among them, which has "
            f"{worst.share:.2f} times the adapter's effect"
        )


def _different_prompts(reader: Reader, reference: Reference) -> Iterator[str]:
    if reader.prompt_ids is None:
        return
    different = [one for one in reference.answered if reader.prompt_ids(one.messages) != list(one.prompt)]
    if different:
        text = different[0].messages[-1].content[:40]
        yield f"the tokenizer writes {len(different)} prompts in another way, {text!r} among them"


def _remedy(is_lost: bool, is_wrong: bool, written_as: str) -> str:
    if is_lost and written_as != "f32":
        return f"rounding to {written_as} loses too much of an adapter as small as this: set export_dtype=f32"
    if not is_wrong and written_as != "f32":
        return (
            f"every layer is as it should be, but rounded to {written_as} they answer otherwise: set export_dtype=f32"
        )
    return f"do not use it: it stays in a folder called *{UNPROVEN}; use the adapter itself, and report this"


def _show(
    agreement: Agreement,
    found: Sequence[FoundEffect],
    share: float,
    tolerance: Tolerance,
    reader: str,
    base_kl: float,
) -> None:
    rows = [
        ("read back by", reader),
        ("questions", f"{agreement.questions}, {agreement.tokens} tokens of answers"),
        ("KL divergence, nats per token", f"mean {agreement.mean_kl:.2g}, largest {agreement.largest_kl:.2g}"),
        ("allowed", f"mean {tolerance.mean_kl:g}, largest {tolerance.largest_kl:g}"),
        ("without the adapter", f"mean {base_kl:.2g}"),
        ("likeliest tokens", f"{agreement.equal_tokens} of {agreement.tokens} the same"),
        ("greedy answers", f"{agreement.equal_answers} of {agreement.questions} the same"),
        ("adapted layers", f"{sum(layer.is_right for layer in found)} of {len(found)} as they should be"),
        ("the adapter's effect", f"{share:.1%} of it is there"),
    ]
    console.table("proof", ["", ""], rows)
