"""The base of all errors that a user meets, and the error that every schema raises."""

from __future__ import annotations


class XycdError(Exception):
    """Base of all errors that the command line shows without a traceback.

    The message says what is wrong, then the rule, then the fix.

    Parameters
    ----------
    rule : str
        What must hold, as a sentence.
    found : str
        What is wrong: the observed value, without a full stop.
    fix : str
        What to do about it, as a sentence.
    """

    def __init__(self, rule: str, found: str, fix: str) -> None:
        super().__init__(f"{found}. {rule} {fix}")
        self.rule, self.found, self.fix = rule, found, fix

    def __reduce__(self) -> tuple[type[XycdError], tuple[str, str, str]]:
        # Errors cross process boundaries. The default would pass the joined message only.
        return type(self), (self.rule, self.found, self.fix)


class SchemaError(XycdError, ValueError):
    """Data doesn't have the form that a schema states."""
