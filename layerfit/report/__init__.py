"""Tables, figures and data frames from records alone; `frame` is the way in from Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerfit.report.frames import frame

__all__ = ["frame"]


def __getattr__(name: str) -> Any:
    """Import `frame` where it is asked for (PEP 562): a table of the command line needs none of it."""
    if name == "frame":
        from layerfit.report.frames import frame

        return frame
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
