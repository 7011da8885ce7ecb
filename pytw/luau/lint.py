"""What an author should hear of a template before it runs: requires that lead nowhere, and globals that do not exist here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from pytw.luau import check, resolve_requires
from pytw.luau.tokens import Token, tokens
from pytw.types import LUAU_SUFFIXES

#: Globals of other Luau or Lua hosts -> what to do here.
ABSENT_GLOBALS: Final[Mapping[str, str]] = {
    "print": "there is no output: return a value, or raise an error, which is logged",
    "warn": "there is no output: return a value, or raise an error, which is logged",
    "getfenv": "environments cannot be read: use _G or a table of your own",
    "setfenv": "environments cannot be set: use typesext.createglobalproxy and a Chunk of @antiraid/luau",
    "dofile": "there is no file system: require a module of the template",
    "loadfile": "there is no file system: require a module of the template",
    "load": "use loadstring, which takes text",
    "io": "there is no file system",
    "package": "require finds modules of the template only",
    "wait": "use task.wait",
    "spawn": "use task.spawn",
    "delay": "use task.delay",
    "tick": "use os.time or os.clock",
    "game": "this is no Roblox place",
    "script": "this is no Roblox place: require takes paths, such as ./module",
}


class Remark(NamedTuple):
    """Something about one line of one file. An error keeps the template from running; a warning does not."""

    file: str
    line: int
    is_error: bool
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {'error' if self.is_error else 'warning'}: {self.text}"


class Require(NamedTuple):
    """A require of a literal path."""

    file: str
    line: int
    path: str


def requires(file: str, words: list[Token]) -> Iterator[Require]:
    """The requires of literal paths in a file, with or without parentheses."""
    for at, word in enumerate(words):
        if word.kind == "name" and word.text == "require" and not _is_member(words, at):
            rest = words[at + 1 : at + 3]
            if rest and _is_sign(rest, 0, "("):
                rest = rest[1:]
            if rest and rest[0].kind == "string":
                yield Require(file, word.line, rest[0].text)


def _is_member(words: list[Token], at: int) -> bool:
    """Whether it follows a dot or a colon; two dots are a concatenation."""
    return _is_sign(words, at - 1, ".:") and not (_is_sign(words, at - 1, ".") and _is_sign(words, at - 2, "."))


def _is_sign(words: list[Token], at: int, signs: str) -> bool:
    return at >= 0 and words[at].kind == "sign" and words[at].text in signs


def _declared(words: list[Token]) -> set[str]:
    """Names that the file declares somewhere: after `local`, `function` and `for`, and in lists of parameters."""
    found: set[str] = set()
    for at, word in enumerate(words):
        if word.kind == "name" and word.text in ("local", "for", "function"):
            for next_word in words[at + 1 :]:
                if next_word.kind == "name" and next_word.text not in ("in", "do", "function"):
                    found.add(next_word.text)
                elif next_word.kind == "name" or next_word.text in "=)":
                    break
    return found


def _absent_globals(file: str, words: list[Token]) -> Iterator[Remark]:
    declared = _declared(words)
    for at, word in enumerate(words):
        if word.kind != "name" or word.text not in ABSENT_GLOBALS or word.text in declared or _is_member(words, at):
            continue
        follows = words[at + 1].text if at + 1 < len(words) else ""
        if follows in ("=", ":") and words[at - 1].text in "{,;":
            continue  # a field of a table or of a type
        yield Remark(file, word.line, False, f"{word.text} does not exist: {ABSENT_GLOBALS[word.text]}")


def lint(files: Mapping[str, bytes]) -> list[Remark]:
    """What is wrong with a template's sources, in the order of files and lines.

    Raises: ValueError: the files are no template.
    """
    remarks: list[Remark] = []
    wanted: list[Require] = []
    for file in sorted(files):
        if not file.endswith(LUAU_SUFFIXES):
            continue
        if complaints := check(file, files[file]):
            remarks += [Remark(file, complaint.line, True, complaint.text) for complaint in complaints]
            continue
        words = tokens(files[file].decode("utf-8", "replace"))
        remarks += _absent_globals(file, words)
        wanted += requires(file, words)
    for require, cause in zip(wanted, resolve_requires(files, [(r.file, r.path) for r in wanted]), strict=True):
        if cause is not None:
            remarks.append(Remark(require.file, require.line, True, cause))
    return sorted(remarks)
