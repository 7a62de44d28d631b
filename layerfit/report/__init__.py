"""Tables, figures and data frames from records alone; `frame` is the Python interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerfit.report.frames import frame

__all__ = ["frame"]


def __getattr__(name: str) -> Any:
    """Import `frame` lazily (PEP 562): a table on the command line does not need it."""
    if name == "frame":
        from layerfit.report.frames import frame

        return frame
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
