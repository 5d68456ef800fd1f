#!/bin/sh
# Installs What Next? with its service and its loop into a virtual environment: deploy/install.sh PREFIX
#
# PYTHON       the interpreter to make it with (3.11 or newer); python3 where it is not set
# TORCH_INDEX  an index of wheels that PyTorch is taken from first, such as that of its CPU builds; none: pip's own
set -eu
umask 022 # whoever runs the service reads what is installed here

prefix=${1:?"usage: install.sh PREFIX, the folder of the virtual environment"}
source=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}

"$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
    echo "install.sh: $python is no Python 3.11 or newer with its venv module; name another by PYTHON=" >&2
    exit 2
}
case "$("$python" -c 'import sys; print(sys.base_prefix)')/" in
/root/* | /home/*)
    echo "install.sh: warning: $python lies in a home, where the unit may not read (ProtectHome); name another by PYTHON=" >&2
    ;;
esac
"$python" -m venv "$prefix"
pip() { "$prefix/bin/python" -m pip --disable-pip-version-check --no-input "$@"; }
if [ -n "${TORCH_INDEX:-}" ]; then
    pip install --index-url "$TORCH_INDEX" 'torch>=2.13'
fi
pip install "$source[serve,loop]"
install -m 755 "$source/deploy/entrypoint.sh" "$prefix/bin/what-next-entrypoint"
"$prefix/bin/what-next" --help >/dev/null
echo "installed in $prefix; next: $prefix/bin/what-next-entrypoint"
