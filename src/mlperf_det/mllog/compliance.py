"""Check an MLPerf log by the rules of its round, with the MLPerf logging package's own checker.

The checker is written for its own command line: it executes the rule files that the log itself names, keeps a global
queue, configures the root logger and lets exceptions through. Here the names are checked before it runs, its state is
reset, and whatever goes wrong becomes a finding.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlperf_logging.compliance_checker import mlp_compliance, mlp_parser

from mlperf_det.errors import UserError

#: largest log that is checked; published logs of detection benchmarks stay far below
MAX_BYTES = 256 << 20
#: bound on the sum of squared event lengths: the package's search is quadratic in them (about 20 s at the bound)
_MAX_WORK = 2 * 10**10
#: characters of a finding
_MAX_FINDING = 400
_RULES = Path(mlp_compliance.__file__).parent
_DIVISIONS = ('closed', 'open')
# The checker's queue of rule files is one for the whole process.
_lock = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class ComplianceResult:
    """The verdict on one log.

    Attributes:
        passed: the checker found nothing, and the log is of the division and benchmark asked for.
        findings: what is wrong, a line each; empty when passed.
        warnings: what the checker remarks and accepts (keys repeated with equal values).
        ruleset: version of the rules, e.g. ``1.1.0``.
        benchmark: ``submission_benchmark`` of the log; None when it has none.
        division: ``submission_division`` of the log; None when it has none.
    """

    passed: bool
    findings: tuple[str, ...]
    warnings: tuple[str, ...]
    ruleset: str
    benchmark: str | None
    division: str | None


def rulesets() -> tuple[str, ...]:
    """Return the versions of the training rules that the installed package has, oldest first."""
    folders = (re.fullmatch(r'training_(\d+\.\d+\.\d+)', path.name) for path in _RULES.iterdir())
    return tuple(sorted((match[1] for match in folders if match), key=lambda v: [int(part) for part in v.split('.')]))


def check_log(path: Path, ruleset: str, *, benchmark: str | None = None, division: str | None = None,
              max_bytes: int = MAX_BYTES) -> ComplianceResult:
    """Check a log.

    Args:
        path: an MLPerf log of any origin; its content is not trusted.
        ruleset: one of `rulesets`.
        benchmark: the log must be of this benchmark; None: of whichever it says.
        division: ``closed`` or ``open``, likewise.
        max_bytes: a larger log is a finding.

    Raises:
        UserError: the log cannot be read or the rule set is unknown.
    """
    if ruleset not in rulesets():
        raise UserError(f'unknown rule set {ruleset!r}; the installed mlperf-logging has {", ".join(rulesets())}')
    excess = _excess(path, max_bytes)
    if excess:
        return _result(ruleset, [excess])
    try:
        lines, errors = mlp_parser.parse_file(str(path), ruleset=ruleset)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        return _result(ruleset, [f'an event cannot be read: {type(error).__name__} {error}'])
    findings = [_one_line(f'a line cannot be read ({problem}): {line}') for line, problem in errors]
    names = {key: [_value(line) for line in lines if line.key == key]
             for key in ('submission_benchmark', 'submission_division')}
    findings += _unsafe_names(names) or _missing_rules(names, ruleset)
    warnings: list[str] = []
    if not findings:
        findings, warnings = _run_checker(lines, ruleset)
    for key, wanted in (('submission_benchmark', benchmark), ('submission_division', division)):
        findings += [f'{key} is {value!r}, expected {wanted!r}' for value in names[key] if wanted not in (None, value)]
    return _result(ruleset, findings, warnings, names)


def _excess(path: Path, max_bytes: int) -> str | None:
    """Say why a log is too large to be parsed; None when it is not."""
    try:
        with path.open('rb') as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > max_bytes:
                return f'the log has {size} bytes, more than the {max_bytes} that are checked'
            lengths = (len(line) - line.index(b':::MLL') for line in stream if b':::MLL' in line)
            work, longest = 0, 0
            for length in lengths:
                work, longest = work + length * length, max(longest, length)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror}); give an MLPerf log') from error
    if work > _MAX_WORK:
        return f'the log has events of up to {longest} bytes, far longer than those of an MLPerf run'
    return None


def _unsafe_names(names: dict[str, list[Any]]) -> list[str]:
    """Check what the checker builds file names from: it executes the rule file that results, wherever it lies."""
    benchmarks, divisions = names['submission_benchmark'], names['submission_division']
    return [_one_line(f'submission_benchmark {value!r} is not a name') for value in benchmarks
            if not isinstance(value, str) or not re.fullmatch('[a-z0-9_]+', value)] + [
            _one_line(f'submission_division {value!r} is neither closed nor open') for value in divisions
            if value not in _DIVISIONS]


def _missing_rules(names: dict[str, list[Any]], ruleset: str) -> list[str]:
    if not names['submission_benchmark']:
        return []
    benchmark = names['submission_benchmark'][0]
    file = f'{benchmark}.yaml'
    if ruleset != '0.6.0':
        # Rule set 0.6.0 has no divisions; in the others a log without one is found out by the common rules.
        if not names['submission_division']:
            return []
        file = f'{names["submission_division"][0]}_{file}'
    having = [version for version in rulesets() if (_RULES / f'training_{version}' / file).is_file()]
    if ruleset in having:
        return []
    return [f'rule set {ruleset} has no rules for benchmark {benchmark!r} (no {file}); rule sets that have: '
            f'{", ".join(having) or "none"}']


def _run_checker(lines: Sequence[Any], ruleset: str) -> tuple[list[str], list[str]]:
    """Run the package's checker and return its findings and its warnings."""
    checker = mlp_compliance.make_checker('training', ruleset, quiet=False, werror=False)
    raised: list[str] = []
    with _isolated_checker():
        try:
            checker.check_loglines(lines, f'training_{ruleset}/common.yaml')
        except Exception as error:  # noqa: BLE001 - the rules compute with values of any type that the log holds
            raised = [_one_line(f'the checker failed on this log: {type(error).__name__}: {error}')]
    found = [_one_line(message) for message in (*checker.overwritable.values(), *checker.not_overwritable)]
    return found + raised, [_one_line(message) for message in checker.warnings.values()]


@contextmanager
def _isolated_checker() -> Iterator[None]:
    # The checker logs through the root logger, which would install a handler if it had none.
    silence = logging.NullHandler()
    with _lock:
        logging.getLogger().addHandler(silence)
        mlp_compliance.enqueued_configs.clear()
        try:
            yield
        finally:
            mlp_compliance.enqueued_configs.clear()
            logging.getLogger().removeHandler(silence)


def _value(line: Any) -> Any:
    return line.value.get('value') if isinstance(line.value, dict) else None


def _result(ruleset: str, findings: Sequence[str], warnings: Sequence[str] = (),
            names: dict[str, list[Any]] | None = None) -> ComplianceResult:
    first = {key: next((v for v in values if isinstance(v, str)), None) for key, values in (names or {}).items()}
    return ComplianceResult(passed=not findings, findings=tuple(findings), warnings=tuple(warnings), ruleset=ruleset,
                            benchmark=first.get('submission_benchmark'), division=first.get('submission_division'))


def _one_line(message: str) -> str:
    """Leave out the checker's dump of its context, and control characters of the log."""
    words = message.partition('\ncurrent context[s]=')[0].replace('\n', ' | ')
    clean = ' '.join(''.join(c if c.isprintable() else ' ' for c in words).split())
    return clean if len(clean) <= _MAX_FINDING else clean[:_MAX_FINDING] + ' ...'
