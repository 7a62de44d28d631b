"""Style of all figures, and their reproducible export: fonts embedded, no date.

A page's text is 6.9 inches wide, a column 3.4: nothing is wider than the page, no letter smaller than 6.5 points.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from io import BytesIO
from textwrap import wrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

PAGE, COLUMN = 6.9, 3.4  # inches
DPI = 170  # of a PNG
TITLE_LINE = 0.14  # inches of a further line of a title
SMALL, NORMAL, TITLE, LARGE = 6.5, 7.5, 8.0, 9.0  # points
INK, SOFT, GRID = "#222222", "#5A5A5A", "#E6E6E6"
MISSING = "#F2F2F2"
# Okabe & Ito's palette, safe for colour-blind readers; black first, yellow (too pale for a line) left out.
COLORS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("solid", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
SEQUENTIAL, DIVERGING = "cividis", "RdBu_r"
"""Even in lightness and safe for colour-blind readers; the second for signed numbers, white at zero."""
STYLE: Any = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same glyphs everywhere
    "font.size": NORMAL,
    "text.parse_math": False,  # a label's `$` is a dollar
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.labelsize": NORMAL,
    "axes.titlesize": TITLE,
    "axes.titlelocation": "left",
    "axes.titlepad": 5.0,
    "axes.edgecolor": SOFT,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": NORMAL,
    "pdf.fonttype": 42,  # TrueType: publishers refuse Type 3
    "pdf.compression": 9,
    "svg.hashsalt": "layerfit",
}


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches, without a window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def legend(figure: Figure, handles: list[Any], across: int, *, handlelength: float) -> None:
    """Put a legend at the figure's lower left corner."""
    width, height = figure.get_size_inches()
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0.06 / width, 0.02 / height),
        ncols=across,
        columnspacing=1.4,
        handlelength=handlelength,
        handletextpad=0.5,
        borderaxespad=0.0,
    )


def styled(make: Callable[[], Figure]) -> dict[str, bytes]:
    """Return the figure of `make` by file ending: `png` at 170 dpi with 256 colours, `pdf` with embedded fonts."""
    # Otherwise matplotlib writes the date into a PDF.
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = make()
        png, pdf = _png(figure), BytesIO()
        figure.savefig(pdf, format="pdf", dpi=300, metadata={"CreationDate": None, "Producer": None})
    return {"png": png, "pdf": pdf.getvalue()}


def _png(figure: Figure) -> bytes:
    """Return a figure as PNG of 256 colours, a third of the bytes.

    The palette covers the range of colours, so that rare ones are kept: no pixel of the committed figures is off by
    more than 8 of 255, and colour bars show no bands.
    """
    from PIL import Image

    drawn, packed = BytesIO(), BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    with Image.open(drawn) as image:
        few = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(packed, format="png", optimize=True, dpi=(DPI, DPI))
    return packed.getvalue()


def text_width(text: str, size: float = SMALL) -> float:
    """Return the approximate width of a text in inches."""
    return 0.0085 * size * max((len(line) for line in text.splitlines()), default=0)


def lines_of(text: str, width: float, size: float) -> list[str]:
    """Break a text into lines that fit in `width` inches."""
    return wrap(text, max(8, int(width / (0.0085 * size)))) or [""]


def title_lines(titles: Iterable[str], width: float) -> int:
    """Return the most lines that one of the titles takes over a panel of `width` inches."""
    return max(len(lines_of(title, width, TITLE)) for title in titles)


def title(axes: Axes, text: str, width: float) -> None:
    """Write a title over a panel of `width` inches, in as many lines as it needs."""
    axes.set_title("\n".join(lines_of(text, width, TITLE)))


def log_ticks(axis: Axis) -> None:
    """Mark a logarithmic axis at 1, 2 and 5 times the powers of ten, by plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    # matplotlib's own labels are formulas, which are not parsed here.
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def stamp(figure: Figure, draft: bool) -> None:
    """Write DRAFT across a figure of a draft."""
    if draft:
        figure.text(0.5, 0.5, "DRAFT", fontsize=52, color=COLORS[2], alpha=0.16, rotation=18, ha="center", va="center")


def number(value: float, decimals: int) -> str:
    """Return a number as a figure shows it: large ones with separators."""
    return f"{value:,.{decimals}f}".replace("-", "\N{MINUS SIGN}")
