"""The page at `/docs`: the OpenAPI document as HTML, in one file without scripts. Pure."""

import json
from html import escape
from typing import Any, Final

Json = dict[str, Any]

STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }
h2 { margin-top: 2em; border-bottom: 1px solid #bbb }
summary { cursor: pointer; padding: .2em 0 }
code, pre { font: 13px/1.4 ui-monospace, monospace }
pre { background: #f4f4f4; padding: .6em; overflow-x: auto }
table { border-collapse: collapse; margin: .4em 0 }
td, th { border: 1px solid #ccc; padding: .2em .5em; text-align: left; vertical-align: top }
.method { display: inline-block; width: 4.5em; font-weight: bold }
@media (prefers-color-scheme: dark) {
  body { background: #1b1b1b; color: #ddd } pre { background: #262626 }
  td, th, h2 { border-color: #555 } a { color: #8ab4f8 }
}
"""


def page(document: Json) -> str:
    """Return the whole page."""
    groups: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            group = groups.setdefault(operation["tags"][0], [])
            group.append(_operation(method, path, operation))
    info = document["info"]
    parts = [f"<h2>{escape(name)}</h2>{''.join(group)}" for name, group in groups.items()]
    schemas = "".join(
        f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary>'
        f"{_pre(schema)}</details>"
        for name, schema in document["components"]["schemas"].items()
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(info['title'])} REST</title><style>{STYLE}</style>"
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>"
        f"<p>{escape(info['description'])} The document itself: "
        '<a href="/openapi.json">openapi.json</a>. '
        "Calls carry <code>Authorization: Bearer &lt;application key&gt;</code>.</p>"
        f"{''.join(parts)}<h2>Schemas</h2>{schemas}</html>"
    )


def _operation(method: str, path: str, operation: Json) -> str:
    body = operation.get("requestBody")
    asked = _content("Body", body["content"]) if body else ""
    return (
        f'<details><summary><span class="method">{escape(method.upper())}</span>'
        f"<code>{escape(path)}</code> {escape(operation['summary'])}</summary>"
        f"{_parameters(operation['parameters'])}{asked}"
        f"{''.join(_response(*item) for item in operation['responses'].items())}</details>"
    )


def _parameters(parameters: list[Json]) -> str:
    if not parameters:
        return ""
    rows = "".join(
        f"<tr><td><code>{escape(item['name'])}</code></td><td>{escape(item['in'])}</td>"
        f"<td><code>{escape(json.dumps(item['schema']))}</code></td>"
        f"<td>{escape(item.get('description', ''))}</td></tr>"
        for item in parameters
    )
    return f"<table><tr><th>name</th><th>in</th><th>type</th><th></th></tr>{rows}</table>"


def _response(status: str, response: Json) -> str:
    title = f"{status} {response['description']}"
    if not status.startswith("2"):
        return f"<p>{escape(title)}</p>"
    return _content(title, response.get("content", {}))


def _content(title: str, content: Json) -> str:
    shown = "".join(
        f"<p><code>{escape(kind)}</code></p>{_pre(item['schema'])}"
        for kind, item in content.items()
    )
    return f"<p><b>{escape(title)}</b></p>{shown}"


def _pre(schema: Json) -> str:
    return f"<pre>{escape(json.dumps(schema, indent=2, ensure_ascii=False))}</pre>"
