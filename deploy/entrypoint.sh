#!/bin/sh
# Starts the service by the setup that WHAT_NEXT_SETUP names; any other words are a command of what-next.
#
# WHAT_NEXT_SETUP   the setup file; /srv/what-next/setup.txt where it is not set
# WHAT_NEXT_HOST, WHAT_NEXT_PORT   go before server.host and server.port of the setup
# WHAT_NEXT_STORE   the URL of a database; without a password in it, libpq takes PGPASSWORD
# PGPASSWORD_FILE   a file that holds the password of the database, as a secret is mounted
set -eu

here=$(cd "$(dirname "$0")" && pwd)
program=$here/what-next
[ -x "$program" ] || program=what-next

if [ -n "${PGPASSWORD_FILE:-}" ]; then
    [ -r "$PGPASSWORD_FILE" ] || {
        echo "entrypoint: PGPASSWORD_FILE is $PGPASSWORD_FILE, which cannot be read; mount the secret there" >&2
        exit 2
    }
    PGPASSWORD=$(cat "$PGPASSWORD_FILE")
    export PGPASSWORD
fi

[ $# -gt 0 ] || set -- serve
if [ "$1" != serve ]; then
    exec "$program" "$@"
fi
shift
setup=${WHAT_NEXT_SETUP:-/srv/what-next/setup.txt}
[ -f "$setup" ] || {
    echo "entrypoint: there is no setup file $setup; put one there, or name another by WHAT_NEXT_SETUP" >&2
    exit 2
}
# exec: signals reach the service itself, which then answers what is under way and ends.
exec "$program" serve "$setup" \
    ${WHAT_NEXT_HOST:+"server.host=$WHAT_NEXT_HOST"} ${WHAT_NEXT_PORT:+"server.port=$WHAT_NEXT_PORT"} "$@"
