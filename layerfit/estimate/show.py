"""Estimates as a table of 100 columns for the terminal, and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import IO, Any

from layerfit.estimate.check import COMPONENTS, Check, by_row
from layerfit.estimate.rows import RowEstimate
from layerfit.report.escape import on_terminal

GPUS_GB = (24, 40, 80, 141)
"""Memory of an RTX 4090, an A100, an A100 or H100, an H200 (vendor's datasheets)."""
TIGHT = 0.9
"""Share of a GPU's memory above which a fit is doubtful: kernels' temporaries, CUDA context, fragmentation."""
TFLOPS = {"rtx4090": 165.2, "a100": 312.0, "h100": 989.4, "h200": 989.4}
"""Dense bf16 with fp32 sums, by NVIDIA: Ada whitepaper (table 2), A100, H100 SXM and H200 SXM datasheets (which print
1,979 with sparsity)."""


@dataclass(frozen=True)
class Speed:
    """tflops: a GPU's peak, in 1e12 FLOPs a second. mfu: share of it reached in training (model FLOPs utilisation)."""

    tflops: float
    mfu: float
    source: str

    def hours(self, flops: float, ranks: int) -> float:
        """Return the hours that `flops` FLOPs take on `ranks` GPUs."""
        return flops / (ranks * self.tflops * 1e12 * self.mfu) / 3600


def fits(total: float, gigabytes: int) -> str:
    """Return `yes`, `tight` (above `TIGHT` of it) or `no`."""
    share = total / (gigabytes * 1e9)
    return "no" if share > 1 else "tight" if share > TIGHT else "yes"


def as_json(name: str, rows: list[RowEstimate], found: list[Check], speed: Speed, ranks: dict[str, int]) -> Any:
    """Return estimates and checks as JSON values: bytes, FLOPs, hours."""
    out = []
    for row in rows:
        one = asdict(row)
        if row.memory is not None:
            one["memory"]["total"] = row.memory.total
            one["fits"] = {f"{size} GB": fits(row.memory.total, size) for size in GPUS_GB}
        one["hours"] = None if row.flops is None else speed.hours(row.flops, ranks[row.label])
        out.append(one)
    return {
        "table": name,
        "speed": asdict(speed),
        "rows": out,
        "checks": [asdict(one) for one in found],
        "ratios": {row: {"records": n, **ratios} for row, (n, ratios) in by_row(found).items()},
    }


def _unit(values: list[float], units: tuple[tuple[float, str], ...]) -> tuple[float, str]:
    largest = max(values, default=0.0)
    return next((unit for unit in units if largest >= unit[0]), units[-1])


BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
WORK = ((1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"))


def number(value: float) -> str:
    """Return a number with three significant digits: 0.0123, 1.23, 12.3, 123, 1234."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:#.3g}".rstrip(".")


def console(
    title: str,
    rows: list[RowEstimate],
    found: list[Check],
    speed: Speed,
    ranks: dict[str, int],
    file: IO[str] | None = None,
) -> None:
    """Print the estimates, their assumptions, and a comparison with records."""
    from rich.console import Console

    out = Console(file=file, width=100, highlight=False)
    out.print(on_terminal(title), style="bold")
    out.print(_estimates(rows, speed, ranks))
    for text in notes(rows, speed, ranks):
        out.print(on_terminal(text), style="dim")
    if not found:
        out.print("No record to compare with yet.", style="dim")
        return
    out.print("\nPredicted / recorded bytes (1 = exact; mean over a row's records)", style="bold")
    out.print(_ratios(found))
    out.print(
        "A record holds the activations of its largest step (before schema 3: of its first), and gradients and "
        "optimizer state of its last plan; these are predicted here, with logits of all positions but one, the most "
        "that a batch can need.",
        style="dim",
    )


def _table(heads: list[str]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for index, head in enumerate(heads):
        table.add_column(on_terminal(head), justify="right" if index else "left", no_wrap=index > 0)
    return table


def _estimates(rows: list[RowEstimate], speed: Speed, ranks: dict[str, int]) -> Any:
    size, name = _unit([row.memory.total for row in rows if row.memory is not None], BYTES)
    work, work_name = _unit([row.flops for row in rows if row.flops is not None], WORK)
    heads = [name, "Weights", "Grads", "Optim", "Activ", "Total", *(f"{gpu}GB" for gpu in GPUS_GB), work_name, "Hours"]
    table = _table(heads)
    for row in rows:
        line = [on_terminal(row.label)]
        if row.memory is None:
            line += ["-"] * (len(heads) - 1)
        else:
            parts = [getattr(row.memory, component) for component in COMPONENTS]
            line += [number(part / size) for part in (*parts, row.memory.total)]
            line += [fits(row.memory.total, gpu) for gpu in GPUS_GB]
            hours = None if row.flops is None else speed.hours(row.flops, ranks[row.label])
            line += ["-" if row.flops is None else number(row.flops / work), "-" if hours is None else number(hours)]
        table.add_row(*line)
    return table


def _ratios(found: list[Check]) -> Any:
    measured = any("allocated" in one.recorded for one in found)
    names = [*COMPONENTS, "total", *(["allocated"] if measured else [])]
    table = _table(["", "Records", *(name.capitalize() for name in names)])
    for row, (count, ratios) in by_row(found).items():
        shown = ["-" if (ratio := ratios[name]) is None else f"{ratio:.3f}" for name in names]
        table.add_row(on_terminal(row), str(count), *shown)
    return table


def notes(rows: list[RowEstimate], speed: Speed, ranks: dict[str, int]) -> list[str]:
    """Return the assumptions behind the numbers."""
    out = [
        f"Per GPU. tight: above {TIGHT:.0%} of it. GB = 1e9 bytes. Activations: tensors saved for backward in the "
        "largest micro-batch, all its examples as long as the longest, with fused attention where the model has it, "
        "under the run's largest plan. Not counted: temporaries of single operators (logits above all), CUDA context, "
        "fragmentation.",
        f"Hours: FLOPs / ({speed.tflops:g} TFLOP/s, {speed.source}, x {speed.mfu:g} utilisation x GPUs), for training "
        "without evaluation, optimizer steps and start-up. FLOPs: matrix products and attention of forward and "
        "backward, down to the lowest unit that trains, and of probes; mean over a run's plans; without padding.",
    ]
    several = {ranks[row.label] for row in rows if row.memory is not None} - {1}
    if several:
        out.append(f"GPUs: {', '.join(f'{row.label} {ranks[row.label]}' for row in rows if ranks[row.label] > 1)}.")
    facts: dict[str, list[str]] = {}
    for row in rows:
        if row.unknown is not None:
            facts.setdefault(row.unknown, []).append(row.label)
        elif row.data is not None:
            data = row.data
            steps = (
                "number of steps not known (nor the number of examples)"
                if row.steps is None
                else f"{row.steps:,} steps"
            )
            kept = f"{steps}, {data.tokens:,.0f} tokens a step, longest example {data.longest:,} ({data.source})"
            facts.setdefault(kept, []).append(row.label)
        for note in row.notes:
            facts.setdefault(note, []).append(row.label)
    trainable = [row.label for row in rows]
    for text, labels in facts.items():
        who = "all rows" if len(labels) == len(trainable) else ", ".join(labels)
        out.append(f"{who}: {text}.")
    return out
