"""What the documentation's build does beside MkDocs' own: files of the checkout that pages link to, Sphinx's roles, and
the help of all commands (mkdocs-click leaves out the examples at its end).

Pages link to files outside ``docs`` as they are found in a checkout. The site has these files as text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from mkdocs.structure.files import File, Files

from fracbnn_pynq.cli import group

_COMMANDS = "<!-- commands -->"
_WIDTH = 100
_ROOT = Path(__file__).resolve().parent.parent
_OUTSIDE = re.compile(r"\]\(\.\./([^)#\s]+)(?:#[^)\s]*)?\)")
_ROLE = re.compile(r":\w+:<code>~?([^<]*)</code>")


def on_files(files: Files, config: Any) -> Files:
    """Add the linked files of the checkout."""
    linked: set[str] = set()
    for file in files.documentation_pages():
        linked.update(_OUTSIDE.findall(file.content_string))
    for name in sorted(linked):
        text = (_ROOT / name).read_text(encoding="utf-8")  # a link to nothing ends the build
        files.append(File.generated(config, f"checkout/{name}.txt", content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to files of the checkout, as the site has them."""
    markdown = _OUTSIDE.sub(r"](checkout/\1.txt)", markdown)
    return markdown.replace(_COMMANDS, "\n".join(_help(group, None))) if _COMMANDS in markdown else markdown


def _help(command: click.Command, parent: click.Context | None) -> Iterator[str]:
    """A section for a command and those in it: its help as it is printed."""
    settings = {"max_content_width": _WIDTH, "terminal_width": _WIDTH, **command.context_settings}
    context = click.Context(command, parent, "fracbnn" if parent is None else command.name, **settings)
    yield f"## {context.command_path}\n\n```text\n{context.get_help()}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None:
                found.name = name  # a module's command is called by its name in the group
                yield from _help(found, context)


def on_page_content(html: str, **_: Any) -> str:
    """``:class:`~package.Name``` of docstrings as the name alone, as Sphinx shows it."""
    return _ROLE.sub(lambda role: f"<code>{role[1].rpartition('.')[2]}</code>", html)
