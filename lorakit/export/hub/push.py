"""``--task push``: a folder's files to a hub, only when asked, and after showing what will be sent."""

from __future__ import annotations

from pathlib import Path

from lorakit import console
from lorakit.config import Config
from lorakit.errors import RunError, SettingsError
from lorakit.export.hub.hubs import HUBS, Hub
from lorakit.export.hub.parcel import Parcel, pack_up
from lorakit.export.hub.privacy import check_no_secret, warnings_of
from lorakit.export.placing import PROOF_FILE
from lorakit.model_config import choose_adapters
from lorakit.runs import ADAPTER_FOLDER, CARD_FILE

_NAMED_LEFT = 20


def run(config: Config) -> int:
    """Show what would be sent and to where, ask, and send it.

    Raises:
        LorakitError: There is nothing to send, it was not agreed to, or the hub has not taken it.
    """
    if config.push_to is None:
        raise SettingsError("push_to: is null, so there is nowhere to send to", "--push_to owner/name")
    hub = HUBS[config.model_hub]()
    hub.check_name(config.push_to)
    parcel = pack_up(folder_of(config))
    check_no_secret(parcel)
    _show(parcel, hub, config.push_to, config.push_private)
    for warning in warnings_of(parcel):
        console.warn(warning)
    if not _is_agreed(config):
        console.note("nothing was sent")
        return 0
    if pack_up(parcel.folder).files != parcel.files:
        raise RunError(
            f"{parcel.folder}: has changed since it was shown, so nothing was sent", "look at it again: run this again"
        )
    address = hub.send(parcel, config.push_to, config.push_private)
    console.note(f"sent: {address}")
    return 0


def folder_of(config: Config) -> Path:
    """Return the folder to send: ``export_dir``, else the adapter.

    Raises:
        SettingsError: Several adapters are named, or one with a weight, which no file holds.
    """
    if config.export_dir:
        return Path(config.export_dir)
    if not config.lora_model_path:
        return Path(config.output_dir) / ADAPTER_FOLDER
    chosen = choose_adapters(config.lora_model_path)
    if len(chosen) > 1 or chosen[0].weight != 1:
        raise SettingsError(
            "lora_model_path: one adapter is sent at a time, as it is",
            "name one without a weight; or make one of them by --task merge, and name its folder as export_dir",
        )
    return chosen[0].folder


def _show(parcel: Parcel, hub: Hub, repository: str, is_private: bool) -> None:
    visibility = "private" if is_private else "PUBLIC: everybody can read it"
    facts = [
        ("from", str(parcel.folder)),
        ("to", f"{repository} on {hub.title}"),
        ("visibility", f"{visibility} ({hub.visibility_note(is_private)})"),
    ]
    console.facts("to be sent", facts)
    rows = [[file.name, size_text(file.size)] for file in parcel.files]
    total = size_text(sum(file.size for file in parcel.files))
    console.table(f"{len(parcel.files)} files, {total}", ["file", "size"], rows)
    if parcel.left:
        more = f", and {len(parcel.left) - _NAMED_LEFT} more" if len(parcel.left) > _NAMED_LEFT else ""
        console.note(f"not sent: {', '.join(parcel.left[:_NAMED_LEFT])}{more}")
    names = {file.name for file in parcel.files}
    if not names & {"adapter_config.json", PROOF_FILE}:
        console.warn(f"there is no {PROOF_FILE} here: lorakit has neither merged nor exported this model")
    if CARD_FILE not in names:
        console.warn(f"there is no model card ({CARD_FILE}) in this folder, so readers will not know what it is")


def size_text(size: int) -> str:
    """Write a file's size as a person would."""
    units = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))
    return next((f"{size / unit:.1f} {name}" for name, unit in units if size >= unit), f"{size} bytes")


def _is_agreed(config: Config) -> bool:
    if config.push_confirmed:
        return True
    if not console.is_interactive():
        raise RunError(
            "nothing was sent: there is nobody at a terminal to ask",
            "look at the list above; to send it, run this again with --set push_confirmed=true",
        )
    try:
        return console.prompt("send? [y/N] ").strip().lower() in {"y", "yes"}
    except EOFError:
        return False
