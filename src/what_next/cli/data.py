"""`what-next data get | import | describe | world`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table
from rich.text import Text

from what_next.cli.options import Json, names_of, option, with_options
from what_next.cli.output import answer, emit
from what_next.errors import DataError, Plain, counted

if TYPE_CHECKING:
    from what_next.data import Dataset, Options, Tables
    from what_next.data.public.sets import PublicSet

app = typer.Typer(no_args_is_help=True, help="Get, import and describe data sets.")


@app.command("get")
def get_known(
    name: Annotated[
        str | None, typer.Argument(help="See `what-next list data`; without it, all and their terms.")
    ] = None,
    to: Annotated[Path, typer.Option(help="The folder for NAME.parquet.")] = Path("data"),
    archive: Annotated[
        Path | None, typer.Option("--from", help="The official archive, downloaded by hand.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Get a known public data set; what is there already is reused."""
    from what_next.data import Dataset
    from what_next.data.public.download import get, is_present
    from what_next.data.public.sets import PUBLIC_SETS, public_set
    from what_next.reporting.bars import Bars

    people = Plain(stderr=as_json)
    if name is None:
        people.print(_known_table(list(PUBLIC_SETS.values())))
        if as_json:
            emit({"data": list(PUBLIC_SETS)})
        return
    known = public_set(name)
    path, notes, fetched = to / f"{known.name}.parquet", list[str](), not is_present(known, to)
    people.print(_known_table([known]))
    if fetched:

        def say(text: str) -> None:
            people.print(f"{known.name}: {text}", highlight=False, soft_wrap=True)

        with Bars(console=people) as bars:
            path, notes = get(known, to, archive, bars, say)
    dataset = Dataset.read(path)
    state = f"{path}: {'written' if fetched else 'already here'}; {_sentence(dataset)}"
    facts = {"data": str(path), "fetched": fetched, "notes": notes, **_size(dataset)}
    answer(facts, as_json, *(f"  {note}" for note in notes), state)


@dataclass(frozen=True)
class ImportOptions:
    """The options that assign columns, and say how their values are read."""

    user: str | None = option("The column with the user.")
    item: str | None = option("The column with the item.")
    time: str | None = option("The column with the time: Unix time (s, ms, us, ns) or dates; '' for none.")
    time_format: str | None = option(
        "The format of times, where it is not obvious: s, ms, us, ns (Unix time), excel, dmy, mdy, ymd, or a pattern "
        "such as '%d.%m.%Y %H:%M'."
    )
    reward: str | None = option("The column with the reward, such as a rating.")
    event: str | None = option("The column with the kind of event, such as play, skip, purchase.")
    titles: str | None = option("The column with titles, in the item table or the log.")
    attributes: str | None = option(
        "Item attributes, separated by commas, in the item table or the log; '' for none. Text of words (separated by "
        "| ; , or spaces) becomes a 0/1 attribute for each of its 200 most frequent words. Default: every column with "
        "numbers but ids, and every token_seq column of a .item file."
    )
    tags: str | None = option(
        "Columns of words that items share, such as an artist or a brand, in the item table or the log; '' for none. "
        "Default: where a tenth of the items share a word with others, unless --attributes is said."
    )
    context: str | None = option(
        "Log columns that describe the event; '' for none. Default: numbers that vary per item."
    )
    fill: Literal["median"] | None = option("Replace missing attribute values; otherwise they are refused.")
    keep_duplicates: bool = option(
        "Keep rows that are equal in every column; a log without times always keeps them.", default=False
    )
    session_gap: str | None = option("Cut a user's events into sessions at pauses longer than this: 30m, 12h, 1d.")
    header: bool | None = option(
        "Whether the first line of the logs holds the names of the columns. Without them the first column is the user, "
        "the second the item, and the others are recognised by their values.",
        show_default=False,
    )
    columns: str | None = option("The columns of logs without a header, in their order: user,item,time,rating.")
    missing: str | None = option(
        "Words for a missing user or item, separated by commas; '' for none. Default: those that programs write, such "
        "as nan, NULL, N/A."
    )

    def table_options(self) -> "Options":
        """These options for an import."""
        from what_next.data import Options
        from what_next.data.importing.ids import MISSING
        from what_next.data.importing.tables import duration

        lists = ("attributes", "tags", "context")
        read: dict[str, Any] = vars(self) | {name: names_of(vars(self)[name]) for name in lists}
        read["session_gap"] = duration(self.session_gap) if self.session_gap else None
        read["missing"] = MISSING if self.missing is None else names_of(self.missing)
        return Options(names=names_of(read.pop("columns")), **read)


@app.command("import")
@with_options(ImportOptions)
def import_data(
    files: Annotated[
        list[str],
        typer.Argument(
            help="One or more log files, or folders of them: one row per event. Paths, or URLs such as s3://bucket/log/."
        ),
    ],
    to: Annotated[Path, typer.Option(help="Where the data set goes: data/NAME.parquet.")],
    options: ImportOptions,
    items: Annotated[
        str | None,
        typer.Option(help="A table with one row per item. FILE.inter takes the FILE.item beside it by itself."),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            help="The memory that the import may take, such as 4GiB. Default: half of what is free. A log that needs "
            "more is sorted on the disk, and becomes a folder NAME.parquet, which training reads from there."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Import logs: CSV, TSV, :: separated, JSON lines and arrays, Parquet, Arrow, RecBole's atomic files, pickled
    DataFrames; the text ones also packed by gzip, Zstandard, bzip2, xz or zip.

    Rows that cannot be used are counted, and written to NAME.rejected.parquet with their line. Without an item table,
    number columns of the log that are constant for each item become its attributes, the others context of the event.
    """
    from what_next.data import Dataset, import_files, save
    from what_next.data.importing.large import import_large, memory_of, needed
    from what_next.data.importing.remote import fetched
    from what_next.reporting.bars import Bars

    if to.suffix != ".parquet":
        raise DataError(f"--to {to}: must end in .parquet")
    how, limit = options.table_options(), memory_of(memory)
    with Bars(silent=as_json) as bars, fetched([*files, *([items] if items else [])], to, bars) as paths:
        table = paths.pop() if items else None
        if needed(paths) > limit:
            tables, written = import_large(paths, to, table, how, memory=limit, stages=bars)
            dataset = Dataset.read(to)
        else:
            tables = import_files(paths, table, how)
            written = save(tables, to)
            dataset = Dataset.from_tables(tables, to.stem)
    facts = _report(tables, written, dataset) if as_json else {}  # hashing many items takes a while
    answer(facts, as_json, *_lines(tables, written, dataset))


def _lines(tables: "Tables", written: list[Path], dataset: "Dataset") -> Iterator[str | Text]:
    """What was read and how, in lines for the terminal."""
    yield from (f"  {line}" for line in tables.told(dataset))
    yield from (Text(f"warning: {warning}", "bold yellow") for warning in tables.warnings)
    yield from (f"  {path} written" for path in written)
    yield f"{counted(tables.rows, 'row')} read; {_sentence(dataset)}"


@app.command()
def describe(
    data: Annotated[Path, typer.Argument(help="An imported data set, or any file that can be imported.")],
    as_json: Json = False,
) -> None:
    """Show what is in a data set."""
    from what_next.data import Dataset

    facts = Dataset.read(data).describe()
    tables = [_facts_table(facts)]
    if facts["attributes"]:
        tables.append(Table("attribute", "mean", "sd"))
        for name, one in facts["attributes"].items():
            tables[-1].add_row(name, f"{one['mean']:.4g}", f"{one['sd']:.4g}")
    answer(facts, as_json, *tables)


def _report(tables: "Tables", written: list[Path], dataset: "Dataset") -> dict[str, Any]:
    return {
        "data": str(written[-1]),
        "files": [str(path) for path in written],
        "rows_read": tables.rows,
        "rejected": tables.reasons(),
        "columns": tables.columns,
        "known_by": {role: known for role, (_, known) in tables.roles(dataset).items()},
        "notes": tables.notes,
        "warnings": tables.warnings,
        **_size(dataset),
    }


def _size(dataset: "Dataset") -> dict[str, Any]:
    return {
        "users": dataset.users,
        "items": len(dataset.catalogue),
        "rows": dataset.events,
        "attributes": list(dataset.catalogue.names),
        "tags": dataset.catalogue.kinds,
        "catalogue": dataset.catalogue.hash(),
    }


def _sentence(dataset: "Dataset") -> str:
    return (
        f"{counted(dataset.users, 'user')}, {counted(len(dataset.catalogue), 'item')} with "
        f"{counted(len(dataset.catalogue.names), 'attribute')}, {counted(dataset.events, 'event')}"
    )


@app.command("world")
def fit_world(
    log: Annotated[
        Path, typer.Argument(metavar="LOG", help="A log of what was shown and what it earned: clicks, or ratings.")
    ],
    to: Annotated[Path, typer.Option(help="Where the world goes: a .safetensors.")],
    user: Annotated[str | None, typer.Option(help="The column with the user.")] = None,
    item: Annotated[str | None, typer.Option(help="The column with the item.")] = None,
    reward: Annotated[str | None, typer.Option(help="The column with the click, or the rating.")] = None,
    propensity: Annotated[
        str | None, typer.Option(help="The column with the probability with which the logged item was shown.")
    ] = None,
    items: Annotated[Path | None, typer.Option(help="A table with one row per item.")] = None,
    unweighted: Annotated[
        bool, typer.Option("--unweighted", help="Let all rows count alike: the log has no probabilities.")
    ] = False,
    model: Annotated[
        Path | None, typer.Option(help="The setup of a trained model, whose vectors stand for users and items.")
    ] = None,
    calibration: Annotated[Path | None, typer.Option(help="The plot of the calibration to write, an .svg.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed for the folds.")] = 0,
    as_json: Json = False,
) -> None:
    """Fit simulated users to a log, and show how well they predict rows that they were not fitted to."""
    from what_next.data.decisions.log import Roles
    from what_next.data.decisions.reader import read_log
    from what_next.data.files import check_paths
    from what_next.off_policy.behaviour import plot_calibration
    from what_next.training.artefacts import read_trained
    from what_next.worlds.fitted import write_world
    from what_next.worlds.fitting import Vectors, fit

    for path, ending in ((to, ".safetensors"), (calibration, ".svg")):
        if path is not None and path.suffix.lower() != ending:
            raise DataError(f"{path}: expected a name that ends in {ending}")
    check_paths(filter(None, [to, calibration]))
    roles = Roles(user=user, item=item, reward=reward, propensity=propensity)
    shown = read_log(log, roles, items, propensities=not unweighted)
    vectors = None if model is None else Vectors.of(read_trained(model, ["train=no"]), shown)
    arrays, told = fit(shown, seed=seed, model=vectors)
    write_world(arrays, told, to)
    if calibration is not None:
        plot_calibration({**told, "given": "users and items"}, calibration, f"World fitted to {log.name}")
    facts = {"world": str(to), **{name: value for name, value in told.items() if name != "item_ids"}}
    answer(facts, as_json, _calibration_table(told), f"{to}: written; {_fit_sentence(told)}")


def _calibration_table(told: dict[str, Any]) -> Table:
    table = Table("rows", "predicted", "observed", title=f"{told['kind']} of held-out rows")
    for one in told["calibration"]:
        table.add_row(f"{one['rows']:,}", f"{one['predicted']:.4g}", f"{one['observed']:.4g}")
    return table


def _fit_sentence(told: dict[str, Any]) -> str:
    what = "log loss" if told["kind"] == "clicks" else "squared error"
    loss, mean = (f"{told[name]:.4g}" for name in ("loss", "loss_of_the_mean"))
    better = "better than" if float(loss) < float(mean) else "no better than"  # as printed
    return (
        f"{counted(told['users'], 'kind')} of users, {counted(told['items'], 'item')}; {what} on held-out rows "
        f"{loss}, {better} {mean} of the mean alone"
    )


def _known_table(sets: list["PublicSet"]) -> Table:
    table = Table(show_header=False, show_lines=True)
    table.add_column()
    table.add_column(overflow="fold")
    for known in sets:
        facts = [known.what, f"from {known.url} ({known.megabytes:g} MB)"]
        if known.package:
            facts.append(f"or from the Python package {known.package.requirement}")
        facts += [f"SHA-256 {known.sha256}", f"licence: {known.licence}", f"cite: {known.citation}"]
        table.add_row(known.name, "\n".join(facts))
    return table


def _facts_table(facts: dict[str, Any]) -> Table:
    lengths, time, reward = facts["lengths"], facts["time"], facts["reward"]
    table = Table(title=facts["name"], show_header=False)
    table.add_row("users", f"{facts['users']:,}")
    table.add_row("items", f"{facts['items']:,} ({facts['items_with_events']:,} with events)")
    table.add_row("rows", f"{facts['rows']:,}")
    table.add_row(
        "per user",
        f"min {lengths['min']:,}, median {lengths['median']:,.0f}, mean {lengths['mean']:,.1f}, max {lengths['max']:,}",
    )
    table.add_row("density", f"{facts['density']:.3%}")
    table.add_row("repeats", f"{facts['repeats']:.1%} of the events are of an item that the user had before")
    table.add_row("time", f"{time['first']} to {time['last']}" if time else "none: file order is the order")
    if time:
        table.add_row("ties in time", f"{facts['ties']:.1%} of rows share their time with another of the same user")
    table.add_row("reward", f"mean {reward['mean']:.3g}, sd {reward['sd']:.3g}" if reward else "none")
    if reward and reward["counts"]:
        table.add_row("", ", ".join(f"{value}: {count:,}" for value, count in reward["counts"].items()))
    elif reward:
        table.add_row("", ", ".join(f"{float(q):.0%}: {value:.3g}" for q, value in reward["quantiles"].items()))
    if facts["events"]:
        table.add_row("events", ", ".join(f"{word}: {count:,}" for word, count in facts["events"].items()))
    table.add_row("tags", ", ".join(facts["tags"]) or "none")
    table.add_row("context", ", ".join(facts["context"]) or "none")
    return table
