"""`what-next hub push | pull`: a model's files on Hugging Face's hub, by `wn.push` and `wn.pull`."""

from pathlib import Path
from typing import Annotated

import typer

from what_next.cli.options import Json, setup_of
from what_next.cli.output import answer

app = typer.Typer(no_args_is_help=True, help="Put models on Hugging Face's hub, and get them.")

Repo = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The model's repository on the hub.")]


@app.command()
def push(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A setup, an agent's file, or a model's folder.")],
    repo: Repo,
    public: Annotated[
        bool, typer.Option("--public", help="If the repository is created now, make it public (default: private).")
    ] = False,
    as_json: Json = False,
) -> None:
    """Put a model on the hub, with its card and without the log; `hf auth login` says who you are."""
    from what_next.python import push as put

    if not model.is_dir() and model.suffix != ".safetensors":
        model = setup_of(model, ["train=no"]).model_agent_path
    address = put(model, repo, private=not public)
    answer({"repo": repo, "commit": address}, as_json, address)


@app.command()
def pull(
    repo: Repo,
    to: Annotated[Path, typer.Option(help="The folder to write; created if it is missing.")],
    revision: Annotated[str | None, typer.Option(help="A branch, a tag or a commit; default: the newest.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a model in the folder.")] = False,
    as_json: Json = False,
) -> None:
    """Get a model from the hub; each file is checked by its hash, and none is code."""
    from what_next.python import pull as get

    model = get(repo, to, revision=revision, overwrite=force)
    answer({"repo": repo, "model_agent_path": str(model.setup.model_agent_path)}, as_json, repr(model))
