"""Runs tasks of lorakit again and again, each in a fork of this process, which has imported everything.

One JSON object a line on standard input: what to run, and at which file-changing call to end or fail it. One a line on
standard output: what became of it.
"""

import ctypes
import json
import os
import sys
import traceback

MOST_DIRTY = 4096
MODES = {"off": 0, "kill": 1, "power": 1, "torn": 2, "fail_once": 3, "fail_on": 4, "short": 5}
NEVER = 2**60  # a point that no task comes to


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


SHIM = ctypes.CDLL(None)
SHIM.crash_shared.restype = ctypes.POINTER(Shared)
SHIM.crash_arm.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_int]


def scarce_memory(most_tokens=60, after_step=3):
    """Let every larger pass run out of memory from a step on."""
    from lorakit.train import trainer

    real, own_step = trainer.summed_loss, trainer.LoraTrainer.training_step
    steps = []

    def counted(self, *arguments, **options):
        steps.append(self.state.global_step)
        return own_step(self, *arguments, **options)

    def limited(model, micro_batch, **options):
        if steps and steps[-1] >= after_step and micro_batch.rows > 1 and micro_batch.tokens > most_tokens:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return real(model, micro_batch, **options)

    trainer.summed_loss, trainer.LoraTrainer.training_step = limited, counted


def stop_at(step):
    """Press Ctrl-C after a step."""
    import signal

    from lorakit.runs import RecordLog, StepRecord

    append = RecordLog.append

    def append_and_stop(self, record):
        append(self, record)
        if isinstance(record, StepRecord) and record.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    RecordLog.append = append_and_stop


PATCHES = {"scarce_memory": scarce_memory, "stop_at": stop_at}


def child(order):
    for number, file in ((1, order["stdout"]), (2, order["stderr"])):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    sys.stdin = open(os.devnull)  # noqa: SIM115 - for as long as the process lives
    for name, arguments in order.get("patches", {}).items():
        PATCHES[name](*arguments)
    from lorakit.cli import main

    point = order.get("point")
    SHIM.crash_arm(NEVER if point is None else point, MODES[order.get("mode", "kill")], order.get("error", 0))
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


def serve():
    shared = SHIM.crash_shared().contents
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            try:
                child(order)
            except BaseException:
                traceback.print_exc()
            os._exit(98)
        _, status = os.waitpid(pid, 0)
        calls, last = shared.calls, shared.last.decode()
        count = shared.unsynced
        kept = dict(zip(shared.dirty[:count], shared.kept[:count], strict=True))
        SHIM.crash_arm(0, 0, 0)
        if order.get("mode") == "power" and os.WIFSIGNALED(status):
            lose_power(order["root"], kept)
        code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        print(json.dumps({"code": code, "calls": calls, "last": last}), flush=True)


def import_everything(argv):
    """Run a task without gradients once here, so that its forks have all modules: autograd does not survive a fork."""
    out = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    sys.stdout.flush()
    from lorakit.cli import main

    code = main(argv)
    for module in ("lorakit.evaluate", "lorakit.export.merging", "lorakit.export.exporting", "lorakit.train.training"):
        __import__(module)
    sys.stdout.flush()
    os.dup2(out, 1)
    print(json.dumps({"code": code}), flush=True)


if __name__ == "__main__":
    import_everything(json.loads(sys.argv[1]))
    serve()
