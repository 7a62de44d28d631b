"""Write a dashboard to disk, or send it to W&B.

Not tested against W&B's servers, for lack of a key. Calls of wandb and wandb-workspaces (0.4.13) are tested with
their own objects, up to those that need the network.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from layerfit.errors import UserError
from layerfit.files.writing import write_atomically
from layerfit.report.wandb_report.content import TABLE, Dashboard, Run

PACKAGES = ("wandb", "wandb_workspaces")
WIDTH, HEIGHT = 12, 8
"""Size of a panel, in W&B's grid of 24 columns."""


def write(made: Dashboard, folder: Path) -> list[Path]:
    """Write the content: report.json, runs.jsonl (one line per run) and tables.json; return their paths."""
    grids = {name: asdict(grid) for name, grid in made.grids.items()}
    lines = "".join(json.dumps(asdict(run), sort_keys=True, allow_nan=False) + "\n" for run in made.runs)
    files = {
        "report.json": json.dumps(made.report, indent=1, allow_nan=False) + "\n",
        "runs.jsonl": lines,
        "tables.json": json.dumps(grids, indent=1, allow_nan=False) + "\n",
    }
    for name, text in files.items():
        write_atomically(folder / made.table / name, text.encode())
    return [folder / made.table / name for name in files]


def check_packages() -> None:
    """Raise UserError if a package for W&B is missing."""
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"W&B needs the package {missing[0].replace('_', '-')}: pip install 'layerfit[wandb]', or --offline"
        )


def send(made: Dashboard, project: str, entity: str | None, folder: Path) -> str:
    """Send the runs that W&B does not have yet, then a new report; return its URL."""
    import wandb

    owner = entity or wandb.Api().default_entity
    if owner is None:
        raise UserError("W&B returned no entity for this key; give --entity")
    for run in made.runs:
        if not _exists(f"{owner}/{project}/{run.id}"):
            _send_run(run, made, project, owner, folder)
    return report(made, project, owner).save().url


def _exists(path: str) -> bool:
    import wandb

    try:
        wandb.Api().run(path)
    except (ValueError, wandb.errors.CommError):
        return False
    return True


def _send_run(run: Run, made: Dashboard, project: str, entity: str | None, folder: Path, mode: str = "online") -> None:
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    sent: Any = wandb.init(
        project=project,
        entity=entity,
        id=run.id,
        name=run.name,
        group=run.group,
        job_type=run.job_type,
        tags=run.tags,
        config=run.config,
        dir=str(folder),
        mode=mode,  # type: ignore[arg-type]
        settings=wandb.Settings(silent=True, console="off"),
    )
    sent.define_metric("train/step")
    sent.define_metric("train/*", step_metric="train/step")
    for values in run.history:
        sent.log(values)
    if run.job_type == TABLE:
        sent.log({name: wandb.Table(columns=[*grid.columns], data=grid.data) for name, grid in made.grids.items()})
    sent.summary.update(run.summary)
    sent.finish()


def report(made: Dashboard, project: str, entity: str) -> Any:
    """Return the report as an object of wandb-workspaces, not saved."""
    import wandb_workspaces.reports.v2 as wr

    blocks: list[Any] = [wr.TableOfContents()]
    for block in made.report["blocks"]:
        if block["kind"] == "markdown":
            blocks.append(wr.MarkdownBlock(block["text"]))
            continue
        runs = block["runs"]
        chosen = f"Metric('Group') == '{runs['group']}' and Metric('JobType') == '{runs['job_type']}'"
        runset = wr.Runset(entity=entity, project=project, name=block["title"], filters=chosen)
        panels = [_panel(panel, block["group_by"], place) for place, panel in enumerate(block["panels"])]
        blocks += [wr.H2(block["title"]), wr.PanelGrid(runsets=[runset], panels=panels)]
    title = made.report["title"][:128]
    return wr.Report(
        project=project,
        entity=entity,
        title=title,
        description=made.report["description"],
        blocks=blocks,
        width="fluid",
    )


def _panel(panel: dict[str, Any], group_by: str, index: int) -> Any:
    """Return one panel, two to a line; lines and bars are means over a row's seeds."""
    import wandb_workspaces.reports.v2 as wr

    layout = wr.Layout(x=WIDTH * (index % 2), y=HEIGHT * (index // 2), w=WIDTH, h=HEIGHT)
    if panel["kind"] == "table":
        return wr.WeavePanelSummaryTable(table_name=panel["key"], layout=layout)
    means: dict[str, Any] = {"groupby": wr.Config(group_by), "groupby_aggfunc": "mean", "title": panel["title"]}
    if panel["kind"] == "line":
        return wr.LinePlot(x=panel["x"], y=panel["y"], groupby_rangefunc="minmax", layout=layout, **means)
    metrics: list[Any] = [wr.SummaryMetric(name) for name in panel["metrics"]]
    return wr.BarPlot(metrics=metrics, groupby_rangefunc="stddev", layout=layout, **means)
