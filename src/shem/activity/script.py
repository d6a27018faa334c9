"""ExeScript: from the JSON text of a REST exec to the commands that travel on the bus.

Rules (docs/protocol/activity-exeunit.md §7): the text is a JSON array of one-key objects; unknown
commands and wrong types are refused with yagna's words and position, unknown fields are dropped,
defaults are filled in. Pure.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from shem.activity import jsontext, scriptparts
from shem.activity.jsontext import ScriptError
from shem.kernel.errors import UsageError

COMMANDS_MAX: Final = 4_096
"""Commands in one script."""

Command = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Script:
    """A normalised script and the digest by which a repeat is recognised."""

    commands: list[Command]

    @property
    def digest(self) -> str:
        return script_digest(self.commands)

    @property
    def text(self) -> str:
        return msgspec.json.encode(self.commands).decode()


def script_digest(commands: object) -> str:
    """Return SHA-256 (hex) of the commands as JSON with sorted keys."""
    return hashlib.sha256(msgspec.json.encode(commands, order="sorted")).hexdigest()


def load_script(text: str) -> Script:
    """Read a script that this module wrote."""
    return Script(msgspec.json.decode(text, type=list[Command]))


def parse_script(text: str) -> Script:
    """Read and normalise the `text` of an exec; UsageError with yagna's words."""
    try:
        document = jsontext.JsonText(text)
        commands = [_command(document, start) for start in document.array()]
    except ScriptError as error:
        raise UsageError(f"Bad request: {error}") from error
    if len(commands) > COMMANDS_MAX:
        raise UsageError(f"Bad request: a script has at most {COMMANDS_MAX} commands")
    return Script(commands)


def _command(document: jsontext.JsonText, start: int) -> Command:
    if document.at(start) == '"':
        name, end = document.string(start)
        _known(name, document, end)
        raise document.error("invalid type: unit variant, expected struct variant", end + 1)
    if document.at(start) != "{":
        raise document.error("expected value", start + 1)
    members = document.object(start, only_first=lambda key, end: _known(key, document, end))
    if len(members) != 1:
        raise document.error("expected value", start + 1)
    found = members[0]
    build, variant = _COMMANDS[found.key]
    if not isinstance(found.value, dict):
        kind = jsontext.kind_of(found.value)
        message = f"invalid type: {kind}, expected struct variant ExeScriptCommand::{variant}"
        raise document.error(message, found.error_at)
    fields = scriptparts.Fields(document, document.object(found.start), found.end)
    return {found.key: build(fields)}


def _known(name: str, document: jsontext.JsonText, end: int) -> None:
    if name not in _COMMANDS:
        expected = ", ".join(f"`{known}`" for known in _COMMANDS)
        raise document.error(f"unknown variant `{name}`, expected one of {expected}", end)


def _sign(_fields: scriptparts.Fields) -> Command:
    return {}


def _deploy(fields: scriptparts.Fields) -> Command:
    body: Command = {
        "net": [scriptparts.network(fields, item) for item in fields.sequence("net")],
        "hosts": fields.text_map("hosts"),
        "hostname": fields.optional_text("hostname"),
        "env": fields.text_map("env"),
        "progress": scriptparts.progress(fields),
    }
    if (volumes := scriptparts.volumes(fields)) is not None:
        body["volumes"] = volumes
    return body


def _start(fields: scriptparts.Fields) -> Command:
    return {"args": fields.texts("args")}


def _run(fields: scriptparts.Fields) -> Command:
    body: Command = {"entry_point": fields.text("entry_point"), "args": fields.texts("args")}
    if (capture := scriptparts.capture(fields)) is not None:
        body["capture"] = capture
    return body


def _transfer(fields: scriptparts.Fields) -> Command:
    flat = fields.flattened()
    return {
        "from": flat.text("from"),
        "to": flat.text("to"),
        "format": flat.optional_text("format"),
        "depth": flat.optional_count("depth"),
        "fileset": scriptparts.fileset(flat),
        "progress": scriptparts.progress(flat),
    }


_COMMANDS: Final[dict[str, tuple[Callable[[scriptparts.Fields], Command], str]]] = {
    "sign": (_sign, "Sign"),
    "deploy": (_deploy, "Deploy"),
    "start": (_start, "Start"),
    "run": (_run, "Run"),
    "transfer": (_transfer, "Transfer"),
    "terminate": (_sign, "Terminate"),
}
