"""Checks of judged benchmarks before a run starts. Nothing is fetched and no judge is called."""

from __future__ import annotations

import json
import re
from pathlib import Path

from layerfit.config.judge import JudgeConfig
from layerfit.config.schema import HubConfig, ModelConfig
from layerfit.errors import UserError
from layerfit.evaluation.judge.answers import NO_TEMPLATE
from layerfit.evaluation.judge.client import host_of, is_loopback
from layerfit.evaluation.judge.files import load_benches
from layerfit.evaluation.judge.local import judge_model
from layerfit.files.names import is_repository
from layerfit.files.secrets import read_key
from layerfit.files.shown import one_line
from layerfit.models.architecture import model_config
from layerfit.models.hub import model_source
from layerfit.models.metadata import check_metadata
from layerfit.models.weights import check_weights

KEY_SETTING = "eval.judge.key_variable"


def check_judge(config: JudgeConfig, model: ModelConfig, hub: HubConfig) -> None:
    """Check judged benchmarks: judge, files, and the model's prompt template.

    Raises:
        UserError: if something is missing or does not fit, naming the first and the fix.
    """
    if config.base_url is not None and config.model_path is not None:
        raise UserError("eval.judge.base_url and eval.judge.model_path name two judges; set one of them to null")
    if config.model_path is not None:
        check_local(config, hub)
    else:
        check_server(config, hub)
    load_benches(config, hub)
    check_model_template(config, model, hub)


def check_model_template(config: JudgeConfig, model: ModelConfig, hub: HubConfig) -> None:
    """Raise UserError if the prompt template is `chat` and the model has no chat template."""
    if config.template == "chat":
        source = model_source(model, hub)
        if isinstance(source, Path) and not has_chat_template(source):
            raise UserError(f"model={model.name}: {NO_TEMPLATE}")


def check_server(config: JudgeConfig, hub: HubConfig) -> None:
    """Raise UserError if the judge's address, id or key is missing, or the address is not allowed offline."""
    if config.base_url is None:
        raise UserError(
            f"no judge for {', '.join(config.benchmarks)}: give eval.judge.base_url=<OpenAI-compatible address, up to "
            "/v1> and eval.judge.model=<its id>, or eval.judge.model_path=<folder or hub id> for one on this machine"
        )
    check_address(config.base_url)
    if config.model is None:
        raise UserError("eval.judge.model is not set; give the judge's model id at its server, with its date if any")
    if hub.offline and not is_loopback(config.base_url):
        raise UserError(
            f"eval.judge.base_url={config.base_url} is not on this machine and hub.offline=true; "
            "give a judge at 127.0.0.1 or eval.judge.model_path, or set hub.offline=false"
        )
    if config.key_variable is not None:
        read_key(KEY_SETTING, config.key_variable)


def check_address(url: str) -> None:
    """Raise UserError if a judge's address is none, or has a password or a query in it, which is not shown."""
    if re.search(r"[@?#]", url):
        raise UserError(
            "eval.judge.base_url has a password, token or query in it (not shown here): it would be written to files; "
            f"export the key in a variable and give its name, {KEY_SETTING}=JUDGE_KEY, and the bare address"
        )
    if host_of(url) is None or re.search(r"[\x00-\x20\x7f-\x9f]", url):
        raise UserError(f"eval.judge.base_url={one_line(url)} is not an http(s) address; give one like https://host/v1")


def check_local(config: JudgeConfig, hub: HubConfig) -> None:
    """Raise UserError if a local judge is missing or broken, or is not a chat model."""
    path = config.model_path or ""
    if config.judgments > 1:
        raise UserError(
            f"eval.judge.judgments={config.judgments}, but a judge at eval.judge.model_path is greedy, so all "
            "judgments would be the same; set it to 1"
        )
    if not Path(path).is_dir() and ("/" not in path or not is_repository(path)):
        raise UserError(f"eval.judge.model_path={path} is neither a folder nor a hub id (organisation/name)")
    source = model_source(judge_model(config), hub)
    if not isinstance(source, Path):
        return
    check_metadata(source)
    check_weights(source, model_config(source))
    if not has_chat_template(source):
        raise UserError(f"eval.judge.model_path={path} has no chat template; give a chat model")


def has_chat_template(folder: Path) -> bool:
    """Return whether a model's folder holds a chat template."""
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    path = folder / "tokenizer_config.json"
    try:
        return path.is_file() and bool(json.loads(path.read_text(encoding="utf-8")).get("chat_template"))
    except ValueError:
        return False
