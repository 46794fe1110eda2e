"""The documentation as a page without a script: what OpenAPI's description says, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

Schema = Mapping[str, Any]

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="page/page.css">
</head>
<body>
<main>
<h1>{title}</h1>
<p>{description}</p>
<p class="quiet">Version {version}. For programs: <a href="openapi.json">openapi.json</a></p>
{operations}
</main>
</body>
</html>
"""


def as_page(schema: Schema) -> str:
    """The page.

    Args:
        schema: as FastAPI makes it, without references in the fields of forms.
    """
    about = {name: escape(text) for name, text in schema["info"].items()}
    return _PAGE.format(**about, operations="\n".join(_operations(schema)))


def _operations(schema: Schema) -> Iterator[str]:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield f"<article>\n<h2><code>{method.upper()} {escape(path)}</code></h2>"
            yield f"<p>{escape(operation['description'])}</p>"
            for kind, content in operation.get("requestBody", {}).get("content", {}).items():
                yield _fields(kind, content["schema"])
            yield "</article>"


def _fields(kind: str, form: Schema) -> str:
    fields = "\n".join(
        f"<dt><code>{escape(name)}</code> {_values(field)}{_default(name, field, form)}</dt>"
        f"<dd>{escape(field.get('description', ''))}</dd>"
        for name, field in form["properties"].items()
    )
    return f'<p class="quiet">{escape(kind)}:</p>\n<dl>\n{fields}\n</dl>'


def _values(field: Schema) -> str:
    """What a field may be.

    >>> _values({"type": "array", "items": {"enum": ["word", "segment"]}})
    '<code>word</code>, <code>segment</code>; may be repeated'
    >>> _values({"anyOf": [{"type": "number"}, {"type": "null"}]})
    'number'
    """
    if "items" in field:
        return f"{_values(field['items'])}; may be repeated"
    if "enum" in field:
        return ", ".join(f"<code>{escape(value)}</code>" for value in field["enum"])
    kinds = [one["type"] for one in field.get("anyOf", [field]) if "type" in one]
    known = {"string": "text", "binary": "a file"}
    return ", ".join(known.get(field.get("format", kind), kind) for kind in kinds if kind != "null")


def _default(name: str, field: Schema, form: Schema) -> str:
    if name in form.get("required", ()):
        return "; is needed"
    value = field.get("default")
    return "" if value in (None, []) else f"; by default <code>{escape(str(value).lower())}</code>"
