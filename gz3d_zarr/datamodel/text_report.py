"""What results that are printed have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from html import escape


class TextReport(ABC):
    """A result that ``print`` and a notebook show as the command line does."""

    @abstractmethod
    def to_text(self) -> str:
        """What the command line prints."""

    def __str__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.to_text())}</pre>"
