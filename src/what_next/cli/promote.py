"""`what-next promote` and `what-next rollback`: choose the model that the service answers with."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from what_next.cli.estimate import REFUSED
from what_next.cli.options import Estimator, Json, Looks, Margin, Overrides, SetupFile, Top, setup_of
from what_next.cli.output import answer
from what_next.cli.service import opened, served_catalogue
from what_next.errors import DataError, ModelError

if TYPE_CHECKING:
    from what_next.serving.store import Store
    from what_next.settings import Setup

app = typer.Typer()

Model = Annotated[
    Path | None, typer.Option(help="The agent's file to deploy, or a setup that names it; default: SETUP's own.")
]
Log = Annotated[
    Path | None, typer.Option(help="A log of decisions that judges it; default: what the service has logged.")
]
Force = Annotated[bool, typer.Option("--force", help="Deploy without the gate, and note that.")]

FIRST = "nothing was deployed before, so there is nothing to compare with"
FORCED = "deployed by --force, without the gate"


@app.command()
def promote(
    setup: SetupFile,
    overrides: Overrides = None,
    model: Model = None,
    log: Log = None,
    margin: Margin = 0.0,
    estimator: Estimator = None,
    top: Top = None,
    looks: Looks = "one",
    force: Force = False,
    as_json: Json = False,
) -> int:
    """Deploy a model to the service, if a log shows that it earns more: exit code 0; or 3, and why not."""
    from what_next.serving.engine.versions import keep, version_of, versions_folder, whole
    from what_next.serving.store import Deploy

    settings = setup_of(setup, overrides, "train=no")
    agent = _agent_of(settings, model)
    version = version_of(agent)
    with opened(settings) as store:
        deployments = store.deployments()
        current = deployments[-1].version if deployments else None
        facts: dict[str, Any] = {"version": version, "current": current, "promote": True, "gate": None}
        if version == current:
            why = f"{version} is deployed already"
            if force:
                keep(versions_folder(settings), agent)
                why += ", and its files are whole; a service that had refused them takes them up when it starts anew"
            return _show(facts | {"promote": False, "why": why}, as_json)
        if current is None or force:
            facts["why"] = FORCED if current else FIRST
        else:
            how = {"estimator": estimator, "margin": margin, "looks": looks}
            files = {version: agent, current: whole(versions_folder(settings), current)}
            facts |= _judged(store, settings, files, log, top, how)
        if not facts["promote"]:
            _show(facts, as_json)
            return REFUSED
        keep(versions_folder(settings), agent)
        note = {"from": current, "agent": str(agent), "why": facts["why"], "forced": force}
        note["gate"] = _short(facts["gate"])
        facts["number"] = store.put(Deploy(version, "promoted" if current else "first", note))
    return _show(facts, as_json)


@app.command()
def rollback(setup: SetupFile, overrides: Overrides = None, as_json: Json = False) -> int:
    """Return the service to the model that it used before the current one."""
    from what_next.serving.engine.versions import before, versions_folder, whole
    from what_next.serving.store import Deploy
    from what_next.training.artefacts import read_models

    settings = setup_of(setup, overrides, "train=no")
    with opened(settings) as store:
        deployments = store.deployments()
        version = before(deployments)
        current = deployments[-1].version
        read_models(whole(versions_folder(settings), version))  # checks that it can be loaded
        number = store.put(Deploy(version, "rolled back", {"from": current}))
    why = f"rolled back from {current}"
    return _show({"version": version, "current": current, "promote": True, "why": why, "number": number}, as_json)


def _agent_of(settings: "Setup", model: Path | None) -> Path:
    if model is None:
        return settings.model_agent_path
    if not model.is_file():
        raise ModelError(f"--model {model}: no such file; name an agent's file (.safetensors), or a setup")
    return model if model.suffix == ".safetensors" else setup_of(model, ["train=no"]).model_agent_path


def _judged(
    store: "Store", settings: "Setup", files: dict[str, Path], log: Path | None, top: int | None, how: dict[str, Any]
) -> dict[str, Any]:
    """The gate's verdict on the new model against the deployed one, both as the service would use them."""
    from what_next.data.files import scratch
    from what_next.off_policy import LogSettings, gate
    from what_next.serving.loop.candidate import OWN_LOG, served
    from what_next.serving.store.export import exported

    policies = [served(name, file, settings) for name, file in files.items()]
    with scratch("promote") as folder:
        evidence = log or folder / "log.parquet"
        try:
            if log is None:
                exported(store, served_catalogue(settings, store)).write(evidence)
            result = gate(LogSettings(evidence, top=top), *policies, **how)
        except DataError as error:
            if log is not None:
                raise
            why = f"there is no evidence: {error}"
            return {"promote": False, "why": why.replace(str(evidence), OWN_LOG)}
    if log is None:  # the log is a temporary file, whose path says nothing
        result = json.loads(json.dumps(result).replace(json.dumps(str(evidence)).strip('"'), OWN_LOG))
    return {"promote": result["promote"], "why": result["why"], "gate": result}


def _short(result: dict[str, Any] | None) -> dict[str, Any] | None:
    """The part of the gate's result that is stored with the deployment."""
    if result is None:
        return None
    log = {name: result["log"].get(name) for name in ("file", "rows", "hash")}
    return {name: result[name] for name in ("estimator", "margin", "looks", "difference")} | {"log": log}


def _show(facts: dict[str, Any], as_json: bool) -> int:
    from what_next.reporting.terminal import gate_table

    gate, deployed = facts.get("gate"), "number" in facts
    table = [gate_table(gate)] if gate else []  # includes the reason
    line = f"{facts['version']} is {'' if deployed else 'not '}deployed" + ("" if gate else f": {facts['why']}")
    line = facts["why"] if facts["version"] == facts["current"] else line
    answer(facts, as_json, *table, line, *(["a running service takes it up within seconds"] if deployed else []))
    return 0
