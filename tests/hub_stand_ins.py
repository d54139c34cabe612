"""What stands in for the hubs: APIs that record calls, and a server that answers as Hugging Face's does."""

from __future__ import annotations

import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import ClassVar

from huggingface_hub.utils import filter_repo_objects

CONFIRMED = "--set=push_confirmed=true"
FILES = {
    "adapter_model.safetensors": b"x" * 1500,
    "adapter_config.json": b'{"peft_type": "LORA", "base_model_name_or_path": "/home/somebody/base"}',
    "lorakit.json": json.dumps({"base_model": "~/base", "system_prompt": "Our secret."}).encode(),
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "README.md": b"---\nlibrary_name: peft\n---\n# card\n",
}
OTHERS = {
    "optimizer.safetensors": b"",
    "random-0.safetensors": b"",
    "trainer_state.json": b"{}",
    "notes.txt": b"private",
    ".lock": b"",
    ".env.json": b"",
    "checkpoint-3/adapter_model.safetensors": b"",
    "checkpoint-3/README.md": b"",
}


def sent(patterns):
    """Which files a hub takes by these patterns, as its own package chooses them."""
    return set(filter_repo_objects([*FILES, *OTHERS], allow_patterns=patterns))


class RecordingApi:
    """Records every call; raises ``fault`` where there is one."""

    endpoint = "https://hub.example"

    def __init__(self, is_private=True, fault=None):
        self.calls = []
        self._is_private = is_private
        self._fault = fault

    def __getattr__(self, name):
        def call(*arguments, **named):
            self.calls.append((name, arguments, named))
            if self._fault is not None:
                raise self._fault
            return {
                "create_repo": f"https://hub.example/{arguments[0] if arguments else ''}",
                "repo_info": SimpleNamespace(private=self._is_private),
            }.get(name)

        return call

    def named(self, name):
        """The one call of that name: its arguments and its keywords."""
        [found] = [(arguments, named) for called, arguments, named in self.calls if called == name]
        return found


class ModelScope130:
    """The signatures of ``HubApi`` in modelscope 1.30, the oldest that is taken."""

    def create_repo(
        self,
        repo_id,
        *,
        token=None,
        visibility="public",
        repo_type="model",
        chinese_name=None,
        license="Apache License 2.0",
        endpoint=None,
        exist_ok=False,
        create_default_config=True,
        aigc_model=None,
        **kwargs,
    ): ...

    def upload_folder(
        self,
        *,
        repo_id,
        folder_path,
        path_in_repo="",
        commit_message=None,
        commit_description=None,
        token=None,
        repo_type="model",
        allow_patterns=None,
        ignore_patterns=None,
        max_workers=8,
        revision="master",
    ): ...


class ModelScope140:
    """The same in modelscope 1.40; ``upload_folder`` hands its keywords to modelscope_hub, whose own are these."""

    def create_repo(
        self,
        repo_id,
        *,
        token=None,
        visibility=None,
        repo_type="model",
        chinese_name=None,
        license=None,
        exist_ok=False,
        create_default_config=False,
        endpoint=None,
        **kwargs,
    ): ...

    def upload_folder(
        self,
        repo_id,
        repo_type,
        folder_path,
        *,
        path_in_repo="",
        commit_message=None,
        commit_description=None,
        revision=None,
        allow_patterns=None,
        ignore_patterns=None,
        max_workers=None,
        use_cache=None,
        disable_tqdm=False,
        sync_remote_repo=False,
        tracker_path=None,
        progress_callback=None,
    ): ...


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: SimpleNamespace

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer({"id": "alice/my-lora", "private": self.hub.is_private, "tags": [], "siblings": []})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        [answer] = [answer for part, answer in self._answers.items() if part in self.path]
        self._answer(answer(self, body))

    def _answer(self, content):
        hub = self.hub
        hub.asked.append(self.path)
        data = json.dumps(content if hub.status == 200 else {"error": hub.message}).encode()
        self.send_response(hub.status)
        if hub.message:
            self.send_header("X-Error-Message", hub.message)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _create(self, body):
        self.hub.created = json.loads(body)
        return {"url": f"{self.hub.address}/alice/my-lora"}

    def _preupload(self, body):
        files = json.loads(body)["files"]
        return {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]}

    def _commit(self, body):
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.hub.received[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return {"commitUrl": f"{self.hub.address}/alice/my-lora/commit/1", "commitOid": "1" * 40}

    def _validate(self, body):
        return {}

    _answers: ClassVar = {
        "/api/repos/create": _create,
        "/preupload/": _preupload,
        "/commit/": _commit,
        "/api/validate-yaml": _validate,
    }


@contextmanager
def hub_server(is_private=True, status=200, message=""):
    """Answer as Hugging Face's hub does to one upload; ``received`` has the files, ``asked`` each request's path."""
    hub = SimpleNamespace(received={}, asked=[], created=None, is_private=is_private, status=status, message=message)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (_Answers,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
