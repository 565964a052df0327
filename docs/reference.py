"""A hook of mkdocs: generates pages from README and the other files in the root, and a reference from the code."""

import inspect
import re
from pathlib import Path

import click
import typer
from mkdocs.structure.files import File

import netbuild
import netbuild.cli  # registers the commands
from netbuild.cli.flags import app

ROOT = Path(__file__).parent.parent
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md"}
PAGES |= {"CHANGELOG.md": "changelog.md"}


def on_files(files, config):
    """Add the generated pages to the files of docs/."""
    generated = {"commands.md": commands(), "python-reference.md": python_names()}
    for source, page in PAGES.items():
        generated[page] = move_links((ROOT / source).read_text(encoding="utf-8"))
    for page, text in generated.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrite the links of a page of docs/ to files in the root, which are pages of the site."""
    return move_links(markdown)


def move_links(text):
    """Rewrite links to files into links to pages of the site; other links to files become plain text."""
    for source, page in PAGES.items():
        text = re.sub(rf"\]\((\.\./)?{re.escape(source)}(#[\w-]*)?\)", rf"]({page}\2)", text)
    text = re.sub(r"\]\(docs/", "](", text)
    return re.sub(r"\[([^\]]*)\]\((?:\.\./)?(?:[\w-]+/[^)\s:]*|LICENSE)\)", r"\1", text)


def commands():
    """Return the reference of the command line: the help of each command."""
    root = typer.main.get_command(app)
    return "# Commands\n\nGenerated from the code; `netbuild COMMAND --help` prints the same.\n" + "".join(
        sections(root, "netbuild")
    )


def sections(command, name):
    """Yield the section of a command, or those of the commands of a group."""
    if subcommands := getattr(command, "commands", None):
        for sub, found in subcommands.items():
            if not found.hidden:
                yield from sections(found, f"{name} {sub}")
        return
    yield f"\n## {name}\n\n{plain(command.help)}\n\n| argument or flag | meaning |\n|---|---|\n"
    for parameter in command.params:
        if not getattr(parameter, "hidden", False):
            flags = parameter.opts + parameter.secondary_opts
            shown = parameter.name.upper() if isinstance(parameter, click.Argument) else ", ".join(flags)
            meaning = plain(getattr(parameter, "help", "")).replace("\n", " ").replace("|", "\\|")
            yield f"| `{shown}` | {meaning} |\n"


def plain(text):
    """Return help as Markdown, with brackets and angles escaped so that they are no links or tags."""
    return re.sub(r"([\[\]<>*])", r"\\\1", inspect.cleandoc(text or ""))


def python_names():
    """Return the reference of the public names of ``netbuild``: signature and docstring."""
    parts = ["# Python reference\n\nGenerated from the code: the public names of `netbuild`.\n"]
    for name in sorted(netbuild.__all__):
        found = getattr(netbuild, name)
        if not isinstance(found, str):
            parts.append(f"\n## netbuild.{name}\n\n{described(found, name)}")
            parts += [
                f"\n### {name}.{key}\n\n{described(value, key)}"
                for key, value in (vars(found).items() if inspect.isclass(found) else ())
                if inspect.isfunction(value) and not key.startswith("_")
            ]
    return "".join(parts)


def described(found, name):
    """Return the signature and the docstring of a name."""
    if inspect.ismodule(found):  # a package that is callable, such as netbuild.export
        found = getattr(found, name, found)
    try:
        signature = f"{name}{inspect.signature(found)}"
    except (TypeError, ValueError):  # a role is a value without a signature
        signature = f"{name} = {found}"
    signature = re.sub(r" at 0x[0-9a-f]+", "", signature)
    return f"```python\n{signature}\n```\n\n```text\n{inspect.getdoc(found) or ''}\n```\n"
