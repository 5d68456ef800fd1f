#!/bin/sh
# Puts a backup in the place of a setup's store and models: restore.sh SETUP BACKUP [--replace]
#
# The service must be stopped. A store that is there already is kept, and nothing is done, unless --replace is given:
# then a SQLite file is moved aside, and the tables of a PostgreSQL database are replaced in one transaction.
# PG_BIN, PGPASSWORD_FILE: see backup.sh
set -eu
umask 077

setup=${1:?"usage: restore.sh SETUP BACKUP [--replace]"}
backup=${2:?"usage: restore.sh SETUP BACKUP [--replace]"}
replace=${3:-}
case $replace in
"" | --replace) ;;
*)
    echo "restore: $replace is unknown; the only option is --replace" >&2
    exit 2
    ;;
esac
here=$(cd "$(dirname "$0")" && pwd)
python=${WHAT_NEXT_PYTHON:-$here/python}
[ -x "$python" ] || python=python3
if [ -n "${PGPASSWORD_FILE:-}" ]; then
    PGPASSWORD=$(cat "$PGPASSWORD_FILE")
    export PGPASSWORD
fi

(cd "$backup" && sha256sum --quiet --check SHA256SUMS) || {
    echo "restore: $backup is not whole; nothing was changed" >&2
    exit 2
}

"$python" - "$setup" "$backup" "$replace" <<'PYTHON'
import os, shutil, subprocess, sys, tarfile, tempfile, time
from pathlib import Path

from sqlalchemy import create_engine, inspect
from sqlalchemy.engine import make_url

from what_next.server.engine.versions import versions_folder
from what_next.server.store import store_of
from what_next.settings import Setup

setup, backup, replace = Setup.read(sys.argv[1], ["train=no"]), Path(sys.argv[2]), sys.argv[3] == "--replace"
place = str(store_of(setup))
sqlite = "://" not in place or place.startswith("sqlite")
kept = backup / ("store.sqlite" if sqlite else "store.dump")


def refuse(message):
    print(f"restore: {message}; nothing was changed", file=sys.stderr)
    sys.exit(2)


def into_file():
    file = Path(place.removeprefix("sqlite:///")).absolute()
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists() and not replace:
        refuse(f"{file} is there already; give --replace to move it aside")
    aside = file.with_name(f".{file.name}.restored")
    shutil.copyfile(kept, aside)
    with aside.open("rb") as opened:
        os.fsync(opened.fileno())
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for ending in ("", "-wal", "-shm"):  # the log of another file would be played into this one
        old = file.with_name(file.name + ending)
        if old.exists():
            old.rename(file.with_name(f"{file.name}.before-{stamp}{ending}"))
    aside.rename(file)


def into_database():
    url = make_url(place).set(drivername="postgresql")
    engine = create_engine(url.set(drivername="postgresql+psycopg"))
    there = inspect(engine).has_table("events")
    engine.dispose()
    if there and not replace:
        refuse("the database holds a store already; give --replace to replace its tables")
    if url.password:
        os.environ["PGPASSWORD"] = str(url.password)
    program = os.path.join(os.environ["PG_BIN"], "pg_restore") if os.environ.get("PG_BIN") else "pg_restore"
    words = ["--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges"]
    words += ["--clean", "--if-exists"] if there else []
    shown = url.set(password=None).render_as_string(hide_password=False)
    if subprocess.run([program, *words, f"--dbname={shown}", str(kept)]).returncode:
        refuse("pg_restore failed")


def models():
    """Versions and the agent's files; those that are there stay as they are."""
    with tempfile.TemporaryDirectory() as folder, tarfile.open(backup / "models.tar.gz") as packed:
        packed.extractall(folder, filter="data")
        for name, target in (("versions", versions_folder(setup)), ("agent", setup.model_agent_path.parent)):
            for found in sorted(Path(folder, name).glob("*")):
                target.mkdir(parents=True, exist_ok=True)
                if not (target / found.name).exists():
                    shutil.move(found, target / found.name)


if not kept.is_file():
    refuse(f"{backup} holds no {kept.name}: it is of another kind of database than {'SQLite' if sqlite else 'PostgreSQL'}")
into_file() if sqlite else into_database()
models()
print("restored; what people had erased since the backup was taken is there again: erase it again")
PYTHON
