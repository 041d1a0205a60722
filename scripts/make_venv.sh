#!/bin/sh
# Make the virtual environment that everything runs in: make_venv.sh FOLDER
set -eu
venv=$1
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "ORBIT needs Python 3.11 or newer; $python is $("$python" --version). Set PYTHON=..." >&2
    exit 1
}
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    # Debian keeps venv's installer in a package of its own.
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -q && apt-get install -y -q "python$version-venv"
    else
        echo "this Python cannot make virtual environments: apt install python$version-venv" >&2
        exit 1
    fi
fi
"$python" -m venv --clear "$venv"
PIP_CONSTRAINT=constraints.txt "$venv/bin/pip" install --quiet --disable-pip-version-check \
    -e '.[dev]' -e orbit_plugins/sysinfo -e orbit_plugins/queue_info -e orbit_plugins/staging \
    -e orbit_plugins/xgfabric \
    -e 'orbit_plugins/psij[endpoint]' -e 'orbit_plugins/rhapsody[dask]'
