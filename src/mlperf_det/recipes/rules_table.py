"""The closed-division rules held against a recipe, as a table for people."""

from __future__ import annotations

from mlperf_det.recipes.recipe import Recipe

_HEADER = ('', 'key', 'value', 'rule')


def rules_table(recipe: Recipe) -> str:
    """Return every rule of the recipe's round with its key, the recipe's value and whether it is kept."""
    rows = [_HEADER, *(('kept' if rule.kept else 'BREACH', rule.key, str(rule.value), rule.rule)
                       for rule in recipe.closed_rules())]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ['  '.join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]])
             for row in rows]
    breaches = len(recipe.closed_rule_breaches())
    head = (f'closed-division rules of round {recipe.ruleset} ({recipe.name} is declared {recipe.division.value}, '
            f'{breaches or "none"} of {len(lines) - 1} broken):')
    return '\n'.join([head, *lines])
