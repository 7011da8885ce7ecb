"""Makes docs/luau/*.md from native/types/*.d.luau: `make docs` runs it, tests/test_docs.py holds the pages to it.

A page is the comment at the head of its file, then each declaration with the comment (``---``) above it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
TYPES = ROOT / "native" / "types"
PAGES = ROOT / "docs" / "luau"

_OPENS = re.compile(r"^(declare class|declare extern type|declare function|export type|type|declare) ([\w.]+)")


class Entry(NamedTuple):
    """One declaration or member: how deep it stands, its text, and what is said of it."""

    depth: int
    code: str
    text: str


def _net(text: str, opens: str, closes: str) -> int:
    return text.count(opens) - text.count(closes)


def read(source: str) -> tuple[str, list[Entry]]:
    """The head comment of a ``.d.luau`` file, and its declarations in order."""
    head: list[str] = []
    said: list[str] = []
    entries: list[Entry] = []
    depth, unclosed = 0, ""
    for raw in source.splitlines():
        line = raw.strip()
        if unclosed:
            line = f"{unclosed} {line}" if not line.startswith("--") else unclosed
        elif line.startswith("--- "):
            said.append(line[4:])
            continue
        elif line.startswith("--") or not line:
            if not entries and line != "--!strict":
                head.append(line[2:].removeprefix(" "))
            continue
        if _net(line, "(", ")") > 0:
            unclosed = line
            continue
        unclosed = ""
        if line == "end" or line.startswith("}"):
            depth += _net(line, "{", "}") if line != "end" else -1
            continue
        is_class = line.startswith(("declare class", "declare extern type")) and not line.endswith(" end")
        opens = is_class + _net(line, "{", "}")
        code = line.rstrip(",").rstrip("{").rstrip(" =:") if opens else line.rstrip(",")
        entries.append(Entry(depth, code, " ".join(said)))
        said = []
        depth += opens
    return "\n".join(head).strip(), entries


def page(name: str, source: str) -> str:
    """The Markdown page of one file."""
    head, entries = read(source)
    out = [f"# {name}", "", f"Made from `native/types/{name}.d.luau` by `make docs`.", "", head, ""]
    in_table = False
    for depth, code, text in entries:
        if depth == 0:
            in_table = False
            opened = _OPENS.match(code)
            out += ["", f"## {opened[2] if opened else code}", ""]
            out += [f"```luau\n{code}\n```", ""] + ([text, ""] if text else [])
        else:
            if not in_table:
                out += ["| member | |", "|---|---|"]
                in_table = True
            shown = "&nbsp;&nbsp;" * (depth - 1) + "`" + code.replace("|", "\\|") + "`"
            out.append(f"| {shown} | {text.replace('|', chr(92) + '|')} |")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out)).strip() + "\n"


def pages() -> dict[str, str]:
    """Every page by its file name."""
    names = sorted(TYPES.glob("*.d.luau"))
    made = {f"{path.name.removesuffix('.d.luau')}.md": path for path in names}
    return {name: page(name.removesuffix(".md"), path.read_text()) for name, path in made.items()}


def main() -> int:
    PAGES.mkdir(exist_ok=True)
    wanted = pages()
    for stale in {path.name for path in PAGES.glob("*.md")} - set(wanted):
        (PAGES / stale).unlink()
    for name, text in wanted.items():
        (PAGES / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
