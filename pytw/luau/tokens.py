"""The words of a Luau source, with their lines: enough to see what it requires and names. No grammar, no scopes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_SPACE = re.compile(r"\s+")
_COMMENT = re.compile(r"--\[(=*)\[.*?\]\1\]|--[^\n]*", re.DOTALL)
_LONG = re.compile(r"\[(=*)\[(.*?)\]\1\]", re.DOTALL)
_QUOTED = re.compile(r"""("|')((?:\\.|(?!\1)[^\\\n])*)\1""", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_NUMBER = re.compile(r"0[xXbB][\da-fA-F_]+|\.?\d[\d_.]*(?:[eE][+-]?\d+)?\w*", re.ASCII)


class Token(NamedTuple):
    """A name, a string's content as written, or one sign."""

    kind: str  # "name" | "string" | "sign"
    text: str
    line: int


class _Lexer:
    def __init__(self, source: str) -> None:
        self.source = source
        self.at = 0
        self.line = 1

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self.source, self.at)
        if found is not None:
            self._advance(found.end() - self.at)
        return found

    def _advance(self, n: int) -> None:
        self.line += self.source.count("\n", self.at, self.at + n)
        self.at += n

    def tokens(self, closing: str = "") -> Iterator[Token]:
        """Up to the end, or to the sign *closing* that closes what was opened outside."""
        depth = 0
        while self.at < len(self.source):
            line = self.line
            if self._take(_SPACE) or self._take(_COMMENT) or self._take(_NUMBER):
                continue
            if found := self._take(_NAME):
                yield Token("name", found[0], line)
            elif found := self._take(_LONG) or self._take(_QUOTED):
                yield Token("string", found[2], line)
            elif self.source[self.at] == "`":
                self._advance(1)
                yield from self._interpolated()
            else:
                sign = self.source[self.at]
                if sign == closing and depth == 0:
                    return
                depth += (sign == "{") - (sign == "}")
                self._advance(1)
                yield Token("sign", sign, line)

    def _interpolated(self) -> Iterator[Token]:
        """The words inside the braces of a backtick string; its text is nobody's business."""
        while self.at < len(self.source):
            sign = self.source[self.at]
            self._advance(2 if sign == "\\" else 1)
            if sign == "`":
                return
            if sign == "{":
                yield from self.tokens(closing="}")
                self._advance(1)


def tokens(source: str) -> list[Token]:
    """Every name, string and sign of *source*, in order. What does not lex is passed over: compiling tells of it."""
    return list(_Lexer(source).tokens())
