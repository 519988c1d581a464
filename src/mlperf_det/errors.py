"""Errors that a user can act on."""

from __future__ import annotations


class UserError(Exception):
    """Bad input: the message names the file, the field and the fix, in one line.

    The command line prints it without a traceback and exits with status 2.
    """
