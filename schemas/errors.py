"""The error that every schema raises."""

from __future__ import annotations


class SchemaError(ValueError):
    """Data doesn't have the form that a schema states.

    Parameters
    ----------
    rule : str
        What must hold.
    found : str
        What was observed.
    mend : str
        What to do about it.
    """

    def __init__(self, rule: str, found: str, mend: str) -> None:
        super().__init__(f"{rule} Found: {found}. {mend}")
        self.rule, self.found, self.mend = rule, found, mend

    def __reduce__(self) -> tuple[type[SchemaError], tuple[str, str, str]]:
        # Errors cross process boundaries; the default reduce would pass the joined message only.
        return type(self), (self.rule, self.found, self.mend)
