"""Read the variables that a shell file of assignments sets. The file is parsed, never executed.

Understood is what published configuration files use: assignments (``export`` or not, several on a line), quotes,
arrays, ``${NAME:-default}``, ``$((arithmetic))`` and ``source`` of a neighbour. Anything else is reported and left out.
"""

from __future__ import annotations

import ast
import operator
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from mlperf_det.errors import UserError

#: Longest value, and bytes of the longest file: assignments that repeat each other can grow without end.
MOST_CHARACTERS, MOST_BYTES = 10_000, 100_000
#: Files that may be sourced, one after another or one in the other.
MOST_FILES = 20
_NAME = re.compile(r'(?:export\s+|declare\s+-x\s+)?([A-Za-z_]\w*)=')
_SOURCE = re.compile(r'(?:source|\.)\s+(.+)')
_OWN_FOLDER = re.compile(r'\$\(dirname "?\$\{BASH_SOURCE(?:\[0\])?\}"?\)|\$\{BASH_SOURCE%/\*\}')
_OWN_NAME = re.compile(r'\$\(\s*basename[^)]*BASH_SOURCE.*\)$', re.DOTALL)
_REFERENCE = re.compile(r'\$\{(\w+)(?::?-((?:[^{}]|\{[^}]*\})*))?\}|\$(\w+)')
_BRACKETS = r'\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)'
#: Pieces of a word: arithmetic, a command, a reference, 'quoted', "quoted", escaped, plain.
_PIECE = re.compile(rf'''(?P<arithmetic>\$\({_BRACKETS}\))|(?P<command>\${_BRACKETS}|`[^`]*`)'''
                    r'''|(?P<reference>\$\{(?:[^{}]|\{[^{}]*\})*\}|\$\w+)|'(?P<single>[^']*)'|"(?P<double>(?:\\.|[^"\\])*)"'''
                    r'''|\\(?P<escaped>.)|(?P<plain>[^\s;&|<>()"'`\\$]+|\$)''', re.DOTALL)
#: What begins a condition, a loop or a function, and the words that open and close them.
_BLOCK = re.compile(r'(?:if|for|while|until|case|select|function|\{)(?:\s|$)|\w+\s*\(\s*\)')
_OPENING = ('if', 'for', 'while', 'until', 'case', 'select', '{')
_BLOCK_WORD = re.compile(r'(?:^|[;\s])(if|for|while|until|case|select|\{|fi|done|esac|\})(?=$|[;\s])')
_SECRET = re.compile(r'PASS(WORD|WD)?$|SECRET|TOKEN|CREDENTIAL', re.IGNORECASE)
_OPERATORS: Mapping[type, Callable[[int, int], int]] = MappingProxyType({
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv, ast.Mod: operator.mod})


@dataclass(frozen=True, kw_only=True)
class ShellFile:
    """What a file sets.

    Attributes:
        path: the file.
        variables: name -> value; the elements of an array are quoted and joined by blanks.
        helpers: names that only served to compute others.
        notices: what was not understood or not taken, each with the file's name.
    """

    path: Path
    variables: Mapping[str, str]
    helpers: frozenset[str] = frozenset()
    notices: tuple[str, ...] = ()


def read_shell_file(path: Path, environment: Mapping[str, str] = MappingProxyType({})) -> ShellFile:
    """Parse a file of assignments.

    Args:
        path: the file.
        environment: variables that are set before, as in ``NEXP=5 source config.sh``.

    Raises:
        UserError: the file cannot be read, sources itself, or grows without end.
    """
    reader = _Reader(variables=dict(environment))
    reader.read(path)
    for name in [name for name in reader.variables if _SECRET.search(name)]:
        del reader.variables[name]
        reader.notices.append(f'{path}: {name} looks like a secret and was not taken over')
    return ShellFile(path=path, variables=reader.variables, helpers=frozenset(reader.used),
                     notices=tuple(reader.notices))


@dataclass
class _Reader:
    """Collects variables while files are read in the order in which a shell would."""

    variables: dict[str, str]
    notices: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    open_files: list[Path] = field(default_factory=list)
    files: int = 0

    def read(self, path: Path) -> None:
        path = path.resolve()
        if path in self.open_files:
            raise UserError(f'{path}: sources itself')
        self.files += 1
        if self.files > MOST_FILES:
            raise UserError(f'{path}: more than {MOST_FILES} files are sourced')
        self.open_files.append(path)
        depth = 0
        for line in _logical_lines(path):
            if not depth and not _BLOCK.match(line):
                self._line(line, path)
                continue
            # Whether a shell would come by here cannot be told without running the file.
            if not depth or '=' in line:
                self.notices.append(f'{path}: {line}: a condition, a loop or a function, or in one; left out')
            depth = max(0, depth + sum(1 if word in _OPENING else -1 for word in _BLOCK_WORD.findall(line)))
        self.open_files.pop()

    def _line(self, line: str, path: Path) -> None:
        sourced = _SOURCE.fullmatch(line)
        if sourced:
            self._source(sourced[1], line, path)
            return
        rest = line
        while rest:
            name = _NAME.match(rest)
            word = _word(rest[name.end():]) if name else None
            if name is None or word is None:
                self.notices.append(f'{path}: {line}: not an assignment, left out')
                return
            text, rest = word
            value = self._value(text, path)
            if value is None:
                self.notices.append(f'{path}: {line}: runs a command or is not understood, left out')
            elif len(value) > MOST_CHARACTERS:
                raise UserError(f'{path}: {name[1]}: longer than {MOST_CHARACTERS} characters')
            else:
                self.variables[name[1]] = value

    def _source(self, place: str, line: str, path: Path) -> None:
        neighbour = _OWN_FOLDER.sub(lambda _: str(path.parent), place.strip('"\''))
        neighbour = str(path.parent / neighbour)
        if '$' in neighbour or not Path(neighbour).is_file():
            self.notices.append(f'{path}: {line}: not found, left out')
        else:
            self.read(Path(neighbour))

    def _value(self, text: str, path: Path) -> str | None:
        """Evaluate a word or an array; None: it would run a command, or is not understood."""
        if _OWN_NAME.match(text):
            return path.stem.removeprefix('config_')
        try:
            if text.startswith('('):
                return shlex.join(shlex.split(self._expand(text[1:-1]), comments=True))
            return ''.join(map(self._piece, _PIECE.finditer(text)))
        except (ValueError, SyntaxError, ArithmeticError, MemoryError, RecursionError):
            return None

    def _piece(self, piece: re.Match[str]) -> str:
        kind, text = piece.lastgroup, piece[piece.lastgroup or 0]
        if kind == 'arithmetic':
            return self._arithmetic(text[3:-2])
        if kind in ('single', 'escaped', 'plain'):
            return text
        # Between double quotes, a backslash takes their meaning from these characters only.
        parts = re.split(r'\\([$`"\\])', text) if kind == 'double' else [text]
        return ''.join(part if number % 2 else self._expand(part) for number, part in enumerate(parts))

    def _expand(self, text: str) -> str:
        """Replace references.

        Raises:
            ValueError: the text has a command, or a reference of another form.
        """
        if '`' in text or re.search(r'\$[({]', _REFERENCE.sub('', text)):
            raise ValueError(text)

        def replace(match: re.Match[str]) -> str:
            name, default = match[1] or match[3], (match[2] or '').strip('"\'')
            self.used.add(name)
            return self.variables.get(name) or self._expand(default)
        return _REFERENCE.sub(replace, text)

    def _arithmetic(self, text: str) -> str:
        """Evaluate shell integer arithmetic with + - * / % and brackets; a bare word is a variable."""
        def value(match: re.Match[str]) -> str:
            self.used.add(match[0])
            return self.variables.get(match[0]) or '0'
        expanded = re.sub(r'[A-Za-z_]\w*', value, self._expand(text))
        return str(_evaluate(ast.parse(expanded.strip(), mode='eval').body))


def _evaluate(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        result = int(_OPERATORS[type(node.op)](_evaluate(node.left), _evaluate(node.right)))
        if abs(result) < 2**63:
            return result
    raise ValueError


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f'{path}: larger than {MOST_BYTES} bytes; this is no configuration file')
        return path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{path}: cannot be read ({error})') from error


def _word(text: str) -> tuple[str, str] | None:
    """Split off the word or array that a text begins with; None: what follows it is no further assignment."""
    if text.startswith('('):
        end = _closing(text)
    else:
        end = 0
        while piece := _PIECE.match(text, end):
            end = piece.end()
    rest = text[end:].lstrip(' \t;\n')
    return (text[:end], rest) if not rest or _NAME.match(rest) else None


def _closing(text: str) -> int:
    depth, quote = 0, ''
    for position, character in enumerate(text):
        if quote:
            quote = '' if character == quote else quote
        elif character in '"\'':
            quote = character
        elif character in '()':
            depth += 1 if character == '(' else -1
            if not depth:
                return position + 1
    return len(text)


def _logical_lines(path: Path) -> list[str]:
    """Join continued lines and open quotes or brackets; drop comments and blank lines."""
    lines: list[str] = []
    pending = ''
    for raw in _text(path).replace('\\\n', ' ').splitlines():
        pending = f'{pending}\n{raw}' if pending else raw
        if len(pending) > MOST_CHARACTERS:
            raise UserError(f'{path}: {pending[:40]!r}...: a quote or a bracket is not closed')
        stripped = _without_comment(pending)
        if stripped is None:
            continue
        pending = ''
        if stripped.strip():
            lines.append(stripped.strip())
    return [*lines, pending.strip()] if pending.strip() else lines


def _without_comment(text: str) -> str | None:
    """Return the text without a trailing comment; None while a quote or an array is still open."""
    quote, depth = '', 0
    for position, character in enumerate(text):
        if quote:
            quote = '' if character == quote else quote
        elif character in '"\'':
            quote = character
        elif character in '()':
            depth += 1 if character == '(' else -1
        elif character == '#' and (position == 0 or text[position - 1].isspace()) and depth == 0:
            return text[:position]
    return None if quote or depth > 0 else text
