"""Runs tasks of lorakit again and again, each in a fork of this process, which has imported everything.

One JSON object a line on standard input: what to run, and at which file-changing call to end or fail it. One a line on
standard output: what became of it.
"""

import ctypes
import gc
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback

MOST_DIRTY = 4096
MODES = {"off": 0, "kill": 1, "power": 1, "torn": 2, "fail_once": 3, "fail_on": 4, "short": 5}
NEVER = 2**60  # a point that no task comes to
GO_ON = 0
LONGEST_END = 60  # seconds from the end of one process of a task to that of all, before they are killed


class Shared(ctypes.Structure):
    """As in crash_shim.c."""

    _fields_ = [
        ("calls", ctypes.c_long),
        ("point", ctypes.c_long),
        ("unsynced", ctypes.c_long),
        ("mode", ctypes.c_int),
        ("error", ctypes.c_int),
        ("dirty", ctypes.c_ulong * MOST_DIRTY),
        ("kept", ctypes.c_long * MOST_DIRTY),
        ("last", ctypes.c_char * 64),
    ]


class Answer(ctypes.Structure):
    """As in crash_shim.c: what a witnessed task is to do at the call that it has come to."""

    _fields_ = [("mode", ctypes.c_int), ("error", ctypes.c_int), ("aside", ctypes.c_char * 4096)]


SHIM = ctypes.CDLL(None)
SHIM.crash_shared.restype = ctypes.POINTER(Shared)
SHIM.crash_arm.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_int]
SHIM.crash_witness.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p]


def no_room(kind):
    """Ask for more memory than any machine has: of PyTorch, of C++ and of Python."""
    import torch

    if kind == "torch":
        torch.empty(2**50, dtype=torch.uint8)
    elif kind == "c++":
        torch.zeros(1).expand(2**45).split(1)  # std::bad_alloc
    else:
        bytearray(2**62)


def scarce_memory(most_tokens=60, after_step=3, kind="torch", is_in_backward=False):
    """Let every larger pass run out of memory from a step on, before it or at the end of its backward pass."""
    from lorakit.train import step, trainer

    real, own_step = step.token_logprobs, trainer.LoraTrainer.training_step
    steps, tokens, hooked = [], [], []

    def counted(self, *arguments, **options):
        steps.append(self.state.global_step)
        return own_step(self, *arguments, **options)

    def fails():
        return steps and steps[-1] >= after_step and tokens[-1] > most_tokens

    def limited(model, micro_batch, *options):
        tokens.append(micro_batch.tokens if micro_batch.rows > 1 else 0)
        if is_in_backward and steps and not hooked:
            first = next(parameter for parameter in model.parameters() if parameter.requires_grad)
            hooked.append(first.register_hook(lambda _: no_room(kind) if fails() else None))
        elif fails() and not is_in_backward:
            no_room(kind)
        return real(model, micro_batch, *options)

    step.token_logprobs, trainer.LoraTrainer.training_step = limited, counted


def stop_at(step, number=int(signal.SIGINT), after_milliseconds=0):
    """Press Ctrl-C after a step, or send another signal, or some time later."""
    from lorakit.train.trainer import LoraTrainer

    own = LoraTrainer._record_step

    def record_and_stop(self, *arguments):
        own(self, *arguments)
        if self.state.global_step == step and after_milliseconds:
            threading.Timer(after_milliseconds / 1000, os.kill, (os.getpid(), number)).start()
        elif self.state.global_step == step:
            os.kill(os.getpid(), number)

    LoraTrainer._record_step = record_and_stop


def stand_in_hub():
    """Let the hub be one that takes everything, and reads the files as its package does."""
    from pathlib import Path
    from types import SimpleNamespace

    from lorakit.export.hub.hubs import HuggingFace

    class Taking:
        def create_repo(self, name, **_):
            return f"https://hub.example/{name}"

        def repo_info(self, *_, **__):
            return SimpleNamespace(private=True)

        def upload_folder(self, *, folder_path, **_):
            assert sum(len(file.read_bytes()) for file in Path(folder_path).iterdir() if file.is_file())

    HuggingFace._open = lambda self: Taking()


def without_dots():
    """Let no thread print dots, which a double would wait for."""
    from lorakit.console.under_way import Display

    Display._tick = lambda *_: None


def draw_nothing():
    """Let the curve's file have no picture in it: to draw it takes a third of a tiny run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg.print_png = lambda _, file: file.write(b"a picture")


PATCHES = {"scarce_memory": scarce_memory, "stop_at": stop_at, "stand_in_hub": stand_in_hub}


def child(order, rank, place, pipes):
    os.environ.update(place, RANK=str(rank), LOCAL_RANK=str(rank)) if place else None
    for number, file in ((1, order["stdout"]), (2, order["stderr"])):
        os.dup2(os.open(f"{file}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    sys.stdin = open(os.devnull)  # noqa: SIM115 - for as long as the process lives
    if rank != order.get("struck_rank", 0):
        SHIM.crash_stand_by()
    for name, arguments in (order.get("patches", {}) | order.get("patches_of", {}).get(str(rank), {})).items():
        PATCHES[name](*arguments)
    if pipes:
        without_dots()
        SHIM.crash_witness(*pipes, order["said"].encode())
    from lorakit.cli import main

    code = 99
    try:
        code = main(order["argv"])
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def lose_power(root, kept):
    """Cut from every file what no fsync has covered, as a file system may leave it after a power cut."""
    for folder, _, files in os.walk(root):
        for file in files:
            path = os.path.join(folder, file)
            if (inode := os.lstat(path).st_ino) in kept:
                os.truncate(path, kept[inode])


def meeting_place(count):
    """What a launcher tells the processes of a task."""
    if count == 1:
        return {}
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    own = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    return own | {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}


def started(order, pipes=None):
    """Fork the processes of a task; one that is witnessed asks and hears through pipes."""
    place = meeting_place(order.get("ranks", 1))
    pids = []
    for rank in range(order.get("ranks", 1)):
        pid = os.fork()
        if pid == 0:
            try:
                child(order, rank, place, pipes)
            except BaseException:
                traceback.print_exc()
            os._exit(98)
        pids.append(pid)
    return pids


def ended(pids):
    """Wait for all processes; return the status of each, and the seconds between the first end and the last."""
    statuses, first = {}, None
    while len(statuses) < len(pids):
        pid, status = os.waitpid(-1, 0 if first is None else os.WNOHANG)
        if pid:
            statuses[pid] = status
            first = first or time.monotonic()
        elif time.monotonic() - first > LONGEST_END:
            for late in set(pids) - set(statuses):
                os.kill(late, 9)
            first -= LONGEST_END  # which the one who asked will see
            time.sleep(0.1)
        else:
            time.sleep(0.002)
    return [statuses[pid] for pid in pids], time.monotonic() - first


class Witnessed:
    """A task that stops at each call that changes files, until it is told to go on."""

    def __init__(self, order):
        SHIM.crash_arm(NEVER, 0, 0)
        self.order = order
        self._hears, answers = os.pipe()
        asks, self._tells = os.pipe()
        [self._pid] = started(order, (answers, asks))
        os.close(answers)
        os.close(asks)

    def next_call(self):
        """Return where it stops, or how it has ended."""
        if (found := self._read(Shared)) is None:
            os.close(self._hears)
            os.close(self._tells)
            return {"codes": [os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])]}
        dirty = zip(found.dirty[: found.unsynced], found.kept[: found.unsynced], strict=True)
        return {"call": found.last.decode(), "number": found.point, "kept": list(dirty)}

    def go_on(self):
        os.write(self._tells, bytes(Answer(GO_ON)))

    def double(self, order):
        """Let a double of it meet a fault here, and return how that has ended."""
        os.write(self._tells, bytes(Answer(MODES[order["mode"]], order.get("error", 0), order["aside"].encode())))
        status = os.waitstatus_to_exitcode(self._read(ctypes.c_int).value)
        self._read(Shared)  # it asks once more
        return {"codes": [status]}

    def _read(self, kind):
        content = b""
        while len(content) < ctypes.sizeof(kind):
            if not (more := os.read(self._hears, ctypes.sizeof(kind) - len(content))):
                return None
            content += more
        return kind.from_buffer_copy(content)


def run(order):
    """Run a task, and return what became of it."""
    shared = SHIM.crash_shared().contents
    point = order.get("point")
    SHIM.crash_arm(NEVER if point is None else point, MODES[order.get("mode", "kill")], order.get("error", 0))
    statuses, seconds = ended(started(order))
    status = statuses[order.get("struck_rank", 0)]
    calls, last = shared.calls, shared.last.decode()
    count = shared.unsynced
    kept = dict(zip(shared.dirty[:count], shared.kept[:count], strict=True))
    SHIM.crash_arm(0, 0, 0)
    if order.get("mode") == "power" and os.WIFSIGNALED(status):
        lose_power(order["root"], kept)
    return {"codes": list(map(os.waitstatus_to_exitcode, statuses)), "calls": calls, "last": last, "seconds": seconds}


def serve():
    witnessed = None
    for line in sys.stdin:
        order = json.loads(line)
        match order.get("kind"):
            case "witness":
                witnessed = Witnessed(order)
                found = witnessed.next_call()
            case "go on":
                witnessed.go_on()
                found = witnessed.next_call()
            case "double":
                found = witnessed.double(order)
            case _:
                found = run(order)
        print(json.dumps(found), flush=True)


def import_everything(argv):
    """Run a task once here, so that its forks have all modules."""
    out = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stdout.flush()
    from lorakit.cli import main

    code = main(argv)
    for module in ("lorakit.export.merging", "lorakit.export.exporting"):
        __import__(module)
    draw_nothing()
    gc.collect()
    gc.freeze()  # to look through these objects would copy their memory in each fork
    sys.stdout.flush()
    os.dup2(out, 1)
    print(json.dumps({"code": code}), flush=True)


if __name__ == "__main__":
    import_everything(json.loads(sys.argv[1]))
    serve()
