"""The model card beside each saved model: its training data, measures, settings and limits.

It has the form of Hugging Face's hub (Mitchell et al. 2019, "Model Cards for Model Reporting"): Markdown under a YAML
header, whose values are written as JSON, a subset of YAML.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from what_next.data.space import Space
from what_next.data.splits import ON
from what_next.errors import counted, some
from what_next.settings import Setup
from what_next.settings.reference import written

HERE = {
    *("train", "data", "log", "track", "user", "threads", "device", "model_agent_path", "model_critic_path"),
    *("cluster", "loop", "server"),
}
"""Settings and groups that describe the machine or the next run, not the model."""
NOT_FOR = """\
- It ranks the items of its catalogue for people like those in its data. How it does for others (another country,
  another shop, another time) was not measured, nor was any group of people apart.
- It passes on what its data favour: what was popular or shown, and whoever is there most.
- It is not for decisions about people (credit, work, health), nor for where a wrong recommendation does harm.
- Its files hold the ids, titles and attributes of items, and nobody's history."""


def people(valid: Mapping[str, float]) -> str:
    """In words, how many validation users a measurement covers: `1 validation user`, or no number if it is unknown."""
    users = valid.get("users")
    return "validation users" if users is None else counted(int(users), "validation user")


def card_path(agent: Path) -> Path:
    """Path of a model's card."""
    return agent.with_name(f"{agent.stem}.card.md")


def card(setup: Setup, space: Space, run: str, histories: int, metrics: Mapping[str, Any]) -> str:
    """The card of a model.

    Args:
        setup: all settings; `space`: with the catalogue.
        run: id of the training run; `histories`: how many histories it has been trained on.
        metrics: the manifest's: `data`, `split`, `counts`, `valid`, `alarms` and so on, as far as they are known.
    """
    algorithm, data = setup.algorithm, str(metrics.get("data"))
    about = (type(algorithm).__doc__ or "").strip().partition("\n")[0]
    sections = {
        "What it was trained on": _trained_on(setup, space, run, histories, metrics),
        "How well": _how_well(metrics, patience=bool(setup.patience)),
        "Settings": f"Otherwise than by default:\n\n```text\n{_settings(setup)}\n```",
        "For whom it is not": NOT_FOR,
    }
    head = f"# {algorithm.name}, trained on {data}\n\nA recommender of What Next? (`what-next-rl`). {about}"
    body = "\n\n".join([head, *(f"## {title}\n\n{text}" for title, text in sections.items())])
    return f"---\n{_header(algorithm.name, data, metrics.get('valid') or {})}\n---\n{body}\n"


def _header(algorithm: str, data: str, valid: Mapping[str, float]) -> str:
    values: dict[str, Any] = {
        "library_name": "what-next-rl",
        "tags": ["recommender-system", "reinforcement-learning", algorithm],
    }
    measured = [{"type": name, "value": value} for name, value in valid.items() if name != "users"]
    if measured:
        judged = {"type": data, "name": data, "split": "validation"}
        result = {"task": {"type": "recommendation"}, "dataset": judged, "metrics": measured}
        values["model-index"] = [{"name": f"{algorithm} on {data}", "results": [result]}]
    return "\n".join(f"{name}: {json.dumps(value)}" for name, value in values.items())


def _trained_on(setup: Setup, space: Space, run: str, histories: int, metrics: Mapping[str, Any]) -> str:
    counts, catalogue = metrics.get("counts") or {}, space.catalogue
    rows = {
        "data": ", ".join([f"`{metrics.get('data')}`", *(f"{n:,} {name}" for name, n in counts.items())]),
        "split": f"`{setup.split.name}`, hash `{metrics['split']}`" if metrics.get("split") else "none",
        "items": f"{len(catalogue):,}, attributes: {some(catalogue.names) or 'none'}, tags: "
        f"{some(catalogue.kinds) or 'none'}, hash `{catalogue.hash()}`",
        "training": f"{histories:,} {setup.unit} with {metrics.get('targets', 0):,} targets{_again(metrics)}",
        "run": f"`{run}`",
    }
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {text} |" for name, text in rows.items())])


def _again(metrics: Mapping[str, Any]) -> str:
    """What a second training learned from; empty where there was none."""
    refit = metrics.get("refit")
    if not refit:
        return ""
    return f"; then, from the start, on {ON[refit['on']]} ({refit['events']:,} events)"


def _how_well(metrics: Mapping[str, Any], *, patience: bool) -> str:
    valid = metrics.get("valid") or {}
    measured = ", ".join(f"{name} {value:.4g}" for name, value in valid.items() if name != "users")
    if not measured:
        lines = ["Nothing was measured in training; `what-next evaluate` does so, on test users."]
    else:
        lines = [f"On what {people(valid)} did, which training never saw: {measured}."]
        if patience:
            lines.append("The same events decided when training ended, which flatters these figures.")
        refit = (metrics.get("refit") or {}).get("on")
        if refit:
            lines.append("This was measured before the second training.")
        judge = "`what-next evaluate` judges on test users, beside baselines, with intervals."
        lines.append(
            "Nothing is left to judge this model by; one with `refit, no` can be." if refit == "all" else judge
        )
    return "\n".join([*lines, *(f"- Alarm in training {alarm}" for alarm in metrics.get("alarms", ()))])


def _settings(setup: Setup) -> str:
    keys = ((line.partition(",")[0], line) for line in written(setup, setup.model_agent_path.parent).splitlines())
    return "\n".join(line for key, line in keys if key.split(".")[0] not in HERE)
