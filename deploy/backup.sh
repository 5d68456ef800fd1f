#!/bin/sh
# Backs up store, models and setup while the service runs: backup.sh SETUP FOLDER
#
# Makes FOLDER/TIME with the store (store.sqlite, or store.dump of pg_dump), models.tar.gz, setup.txt and SHA256SUMS,
# and prints its path. It is written aside and renamed: a folder that is there is whole.
#
# PG_BIN            the folder of pg_dump, of the server's version or newer; else it is looked for as any program is
# PGPASSWORD_FILE   see entrypoint.sh
set -eu
umask 077

setup=${1:?"usage: backup.sh SETUP FOLDER"}
folder=${2:?"usage: backup.sh SETUP FOLDER"}
here=$(cd "$(dirname "$0")" && pwd)
python=${WHAT_NEXT_PYTHON:-$here/python}
[ -x "$python" ] || python=python3
if [ -n "${PGPASSWORD_FILE:-}" ]; then
    PGPASSWORD=$(cat "$PGPASSWORD_FILE")
    export PGPASSWORD
fi

time=$(date -u +%Y%m%dT%H%M%SZ)
aside=$folder/.$time.$$
trap 'rm -rf "$aside"' EXIT
mkdir -p "$aside"

"$python" - "$setup" "$aside" <<'PYTHON'
import os, shutil, sqlite3, subprocess, sys, tarfile
from contextlib import closing
from pathlib import Path

from sqlalchemy.engine import make_url

from what_next.artefacts import catalogue_path, critic_beside
from what_next.server.engine.versions import versions_folder
from what_next.server.store import store_of
from what_next.settings import Setup

path, aside = Path(sys.argv[1]), Path(sys.argv[2])
setup = Setup.read(path, ["train=no"])
place = str(store_of(setup))
if "://" not in place or place.startswith("sqlite"):
    file = Path(place.removeprefix("sqlite:///")).absolute()
    if not file.is_file():
        sys.exit(f"backup: there is no store {file}")
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(aside / "store.sqlite")) as copy:
        source.backup(copy)  # all pages in one read transaction: one moment of the store, and nobody waits
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
        found = copy.execute("PRAGMA integrity_check").fetchone()[0]
    if found != "ok":
        sys.exit(f"backup: the copy of {file} is damaged: {found}")
else:
    url = make_url(place).set(drivername="postgresql")
    if url.password:  # not on the command line, which others can read
        os.environ["PGPASSWORD"] = str(url.password)
    program = os.path.join(os.environ["PG_BIN"], "pg_dump") if os.environ.get("PG_BIN") else "pg_dump"
    words = ["--format=custom", "--no-owner", "--no-privileges", f"--file={aside / 'store.dump'}"]
    shown = url.set(password=None).render_as_string(hide_password=False)
    if subprocess.run([program, *words, f"--dbname={shown}"]).returncode:
        sys.exit("backup: pg_dump failed")
# After the store: every version that it names is there by now.
agent, versions = setup.model_agent_path, versions_folder(setup)
with tarfile.open(aside / "models.tar.gz", "w:gz") as models:
    if versions.is_dir():
        models.add(versions, "versions", filter=lambda one: None if "/." in one.name else one)
    if agent.is_file():
        for file in (agent, catalogue_path(agent), critic_beside(agent)):
            if file is not None and file.is_file():
                models.add(file, f"agent/{file.name}")
shutil.copyfile(path, aside / "setup.txt")
for file in aside.iterdir():
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
PYTHON

(cd "$aside" && sha256sum -- * >.sums && mv .sums SHA256SUMS)
sync "$aside/SHA256SUMS" "$aside" 2>/dev/null || sync
mv "$aside" "$folder/$time"
echo "$folder/$time"
