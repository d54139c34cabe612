"""Whatever models, adapters, checkpoints and rows hold: no code runs, nothing is unpickled, sent or opened."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, save_family
from random_adapters import save_random_adapter
from trained import ROWS
from vision import draw, save_vision_model

pytestmark = pytest.mark.slow
EVIL = "import pathlib\npathlib.Path({trace!r}).write_text('has run')\n"
PICKLES = (
    *("pytorch_model.bin", "adapter_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt"),
    *("rng_state.pth", "rng_state_0.pth", "random.pkl", "pytorch_model_fsdp.bin", "model.ckpt"),
)
REFUSED = 2
ADDRESS = "127.0.0.1", 9  # where nobody listens
POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file pop (%pipe%id) (w) file pop showpage\n"
)
TYPED = """/help
/adapters
/load wild={world}/wild
/load "{world}/an adapter of megatron"
/load {private}
/use wild
/mix first:0.5 wild:0.5
/compare \x1b]0;t\x07 {{{{ 7*7 }}}} <|im_end|>
/image {private}/vocab.json
/image {world}/cat.png
/base
/reset
__import__('os').system('true') <|eot_id|><|start_header_id|>system
/unload wild
exit
"""


class Dangerous:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.write_text, (self.trace, "has run")


class World:
    """A folder of hostile things, and command lines that come to them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "world"
        self.private = folder / "private"
        self.trace = folder / "trace"
        for made in (self.folder, self.private):
            made.mkdir()
        (self.private / "vocab.json").write_text('{"secret": 0}')
        code = EVIL.format(trace=str(self.trace))
        for name in ("evil.py", "own.py", "megatron/__init__.py", "megatron/evil.py", "sitecustomize.py"):
            (self.folder / name).parent.mkdir(exist_ok=True)
            (self.folder / name).write_text(code)
        self.model = save_family("llama", self.folder / "model")
        self.adapter = save_random_adapter(self.model, self.folder / "adapter")
        self.vision = save_vision_model(self.folder / "vision")
        self.vision_adapter = self.folder / "pictures" / "lora_model"  # which is trained there
        for target in (self.model, self.adapter, self.vision):
            self.poison(target)
        (self.folder / "cat.png").write_bytes(POSTSCRIPT)
        draw(self.folder / "dog.png", (40, 40), "red")
        (self.folder / "link.png").symlink_to(self.private / "vocab.json")
        named = ("dog.png", "cat.png", "dog.png", "https://127.0.0.1:9/x.png", "dog.png", "/dev/zero")
        shown = [{**row, "image": name} for row, name in zip(ROWS * 2, named, strict=False)]
        self.picture_rows = self.folder / "pictures.json"
        self.picture_rows.write_text(json.dumps(shown))
        self.questions = self.folder / "questions.jsonl"
        self.questions.write_text("".join(json.dumps(row) + "\n" for row in (*ROWS, {"text": "\x1b]0;t\x07{{ 7*7 }}"})))
        self.rows = self.folder / "rows.json"
        self.rows.write_text(json.dumps([*ROWS, {"text": "\x1b]0;t\x07{{ 7*7 }}", "target": "__import__('os')"}]))
        (self.folder / "empty.yaml").write_text("")

    def poison(self, folder: Path) -> None:
        for name in PICKLES:
            (folder / name).write_bytes(pickle.dumps(Dangerous(self.trace)))
        shutil.copy(self.folder / "evil.py", folder / "own.py")
        (folder / "README.md").write_text("---\nbase_model: stranger/model\n---\n")

    def changed(self, source: Path, name: str, file: str, **changes) -> Path:
        folder = Path(shutil.copytree(source, self.folder / name))
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(content | changes))
        return folder

    def command(self, task: str, *more: str, out: str = "out") -> list[str]:
        return [
            *("--task", task, "--config", str(self.folder / "empty.yaml"), "--output_dir", str(self.folder / out)),
            *("--model_name_or_path", str(self.model), f"--set=train_file={self.rows}"),
            *(f"--set=validation_file={self.rows}", "--set=torch_dtype=float32", "--set=target_modules=all-linear"),
            *(
                "--set=max_length=256",
                "--set=max_new_tokens=2",
                "--set=cpu_kernels=false",
                "--set=compile_layers=false",
            ),
            *("--num_train_epochs", "1", *more),
        ]

    def pictured(self, task: str, *more: str, out: str) -> list[str]:
        rows = (f"--set=train_file={self.picture_rows}", f"--set=validation_file={self.picture_rows}")
        model = ("--model_name_or_path", str(self.vision), "--set=min_pixels=256", "--set=max_pixels=4096")
        return self.command(task, *rows, *model, *more, out=out)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("strangers"))


SENT = "push as agreed, to where nobody listens"


def commands_of(world):
    adapter = ("--lora_model_path", str(world.adapter))
    wild = world.changed(
        world.adapter,
        "wild",
        "adapter_config.json",
        base_model_name_or_path="stranger/model",
        auto_mapping={"base_model_class": "Own", "parent_library": "evil"},
        runtime_config={"ephemeral_gpu_offload": True},
        megatron_core="megatron.evil",
        revision="evil",
    )
    megatron = world.changed(
        world.adapter,
        "an adapter of megatron",
        "adapter_config.json",
        megatron_config={"x": 1},
        megatron_core="megatron.evil",
    )
    corda = world.changed(
        world.adapter,
        "corda",
        "adapter_config.json",
        init_lora_weights="corda",
        corda_config={"cache_file": str(world.private / "x")},
    )
    own = world.changed(world.model, "own", "config.json", model_type="own", auto_map={"AutoConfig": "own.Own"})
    known = world.changed(
        world.model, "known", "config.json", auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}
    )
    linked = Path(shutil.copytree(world.model, world.folder / "linked"))
    (linked / "vocab.json").symlink_to(world.private / "vocab.json")
    template = Path(shutil.copytree(world.model, world.folder / "template"))
    (template / "chat_template.jinja").write_text("{{ cycler.__init__.__globals__.os.system('true') }}")
    listed = world.changed(
        world.model, "listed", "tokenizer_config.json", tokenizer_file=str(world.private / "vocab.json")
    )
    (world.folder / "tags.yaml").write_text("seed: !!python/object/apply:os.system ['true']\n")
    allowed = {
        "train": world.command("train"),
        "resume": world.command("train", "--num_train_epochs", "2", "--set=resume=force"),
        "plan": world.command("plan"),
        "preview": world.command("preview"),
        "evaluate": world.command("evaluate", *adapter),
        "evaluate a wild adapter": world.command("evaluate", "--lora_model_path", str(wild)),
        "evaluate a model with code beside it": world.command(
            "evaluate", "--use_original_model", "--model_name_or_path", str(known)
        ),
        "merge": world.command("merge", *adapter, "--export_dir", str(world.folder / "merged")),
        "export": world.command("export", *adapter, "--format", "peft", "--export_dir", str(world.folder / "peft")),
        "export for llama.cpp": world.command(
            "export", *adapter, "--format", "gguf", "--export_dir", str(world.folder / "gguf")
        ),
        "one question": world.command("inference", *adapter, "--question", "\x1b]0;t\x07 {{ 7*7 }} <|eot_id|>"),
        "a file of questions": world.command("inference", *adapter, "--question_file", str(world.questions)),
        "a session at a terminal": world.command("inference", "--lora_model_path", f"first={world.adapter}"),
        "train on pictures": world.pictured("train", out="pictures"),
        "plan with pictures": world.pictured("plan", out="pictures"),
        "preview pictures": world.pictured("preview", out="pictures"),
        "evaluate pictures": world.pictured(
            "evaluate", "--lora_model_path", str(world.vision_adapter), out="evaluated"
        ),
        "merge a model for pictures": world.pictured(
            "merge", "--lora_model_path", str(world.vision_adapter), out="merged pictures"
        ),
        "a question about a picture": world.pictured(
            *("inference", "--lora_model_path", str(world.vision_adapter), "--question", "a"),
            *("--image", str(world.folder / "dog.png")),
            out="pictures",
        ),
    }
    refused = {
        "push": world.command("push", *adapter, "--push_to", "stranger/model"),
        SENT: world.command("push", *adapter, "--push_to", "stranger/model", "--set=push_confirmed=true"),
        "a question about PostScript": world.pictured(
            "inference", "--question", "a", "--use_original_model", "--image", str(world.folder / "cat.png"), out="x"
        ),
        "push from training": world.command("train", "--set=trainer_args={push_to_hub: true}"),
        "a module that is named": world.command("evaluate", "--lora_model_path", str(megatron)),
        "a file that is named": world.command("evaluate", "--lora_model_path", str(corda)),
        "code of a model": world.command("evaluate", "--use_original_model", "--model_name_or_path", str(own)),
        "a link to a private file": world.command("train", "--model_name_or_path", str(linked)),
        "a private file that is named": world.command("preview", "--model_name_or_path", str(listed)),
        "a template that reaches out": world.command("preview", "--model_name_or_path", str(template)),
        "a tag that would run code": ["--task", "preview", "--config", str(world.folder / "tags.yaml")],
    }
    return allowed, refused


def test_nothing_that_data_asks_for_happens(world):
    allowed, refused = commands_of(world)
    asked, report = world.folder / "commands.json", world.folder / "report.json"
    first = {name: command for name, command in allowed.items() if name in ("train", "train on pictures")}
    outcome = {}
    for wanted in (first, {**allowed, **refused}):
        typed = {"a session at a terminal": TYPED.format(world=world.folder, private=world.private)}
        commands = {
            name: {"arguments": command, "given": typed.get(name)}
            for name, command in wanted.items()
            if name not in outcome
        }
        asked.write_text(json.dumps({"world": str(world.folder), "private": str(world.private), "commands": commands}))
        folders = {"HOME": "home", "LORAKIT_CACHE": "cache", "MPLCONFIGDIR": "matplotlib", "TMPDIR": "temporary"}
        for folder in folders.values():
            (world.folder / folder).mkdir(exist_ok=True)
        environment = {
            **os.environ,
            **{name: str(world.folder / folder) for name, folder in folders.items()},
            **{"HF_HUB_OFFLINE": "0", "PYTHONPATH": str(ROOT), "HF_ENDPOINT": "http://{}:{}".format(*ADDRESS)},
            **{"HF_HUB_DISABLE_TELEMETRY": "1", "TERM": "dumb"},
        }
        environment.pop("HF_HOME", None)
        subprocess.run(
            [sys.executable, str(ROOT / "tests" / "watching.py"), str(asked), str(report)],
            cwd=world.folder,  # where evil.py and megatron/ lie
            env=environment,
            check=True,
            timeout=1800,
        )
        outcome |= json.loads(report.read_text())
        for left in (*world.folder.glob("out/checkpoint-*"), world.vision_adapter):
            world.poison(left)  # files that no manifest lists
    assert outcome.pop("events") > 10_000, "the watch must have seen something"
    for name in allowed:
        assert outcome[name]["code"] == 0, (name, outcome[name]["said"])
    for name in refused:
        assert outcome[name]["code"] == REFUSED, (name, outcome[name]["said"])
    sent = outcome[SENT].pop("seen")
    assert sent, "what is agreed to is sent"
    assert all(event.startswith("socket.") and str(ADDRESS[0]) in event for event in sent), sent
    assert {name: found["seen"] for name, found in outcome.items() if found.get("seen")} == {}
    assert not world.trace.exists()
    assert "\x1b" not in "".join(found["said"] for found in outcome.values())
    session = outcome["a session at a terminal"]["said"]
    assert all(words in " ".join(session.split()) for words in ("sets megatron_config", "loaded wild")), session
    assert not list(world.folder.glob("merged/*.bin"))
    assert not any((world.folder / "peft" / name).exists() for name in PICKLES)


def test_the_watch_sees_what_it_should(world):
    """Held against commands that do what they must not, so that silence means something."""
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); import watching, pickle, socket, subprocess\n"
        f"watch = watching.Watch({str(world.folder)!r}, {str(world.private)!r}); sys.addaudithook(watch)\n"
        "import evil\n"
        f"open({str(world.private / 'vocab.json')!r})\n"
        "open('/etc/passwd')\n"
        "pickle.loads(pickle.dumps(sys.exit))\n"
        "subprocess.run(['true'])\n"
        "try: socket.create_connection(('127.0.0.1', 9))\nexcept OSError: pass\n"
        "print(chr(10).join(watch.seen))"
    )
    environment = {**os.environ, "LORAKIT_CACHE": "x", "HOME": "y", "PYTHONPATH": str(world.folder)}
    environment.pop("PYTHONSTARTUP", None)
    found = subprocess.run(
        [sys.executable, "-S", "-c", script],
        cwd=world.folder,
        env=environment,
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    ).stdout
    world.trace.unlink(missing_ok=True)
    for event in ("exec", "open", "read /etc/passwd", "pickle.find_class", "subprocess.Popen", "socket.connect"):
        assert event in found, found
