#!/bin/sh
# Install fracbnn_pynq from this folder, without internet and without a compiler.
#
# On a PYNQ image as root: sh install.sh
# Elsewhere: in an active virtual environment, or with PYTHON=/path/to/python sh install.sh
set -eu
here=$(cd "$(dirname "$0")" && pwd)

if [ -z "${PYTHON:-}" ] && [ -z "${VIRTUAL_ENV:-}" ] && [ -r /etc/profile.d/pynq_venv.sh ]; then
    [ "$(id -u)" = 0 ] || { echo "error: expected root, as pynq needs it: sudo sh $0" >&2; exit 1; }
    set +u # these scripts read variables that are not set
    . /etc/profile.d/pynq_venv.sh
    [ ! -r /etc/profile.d/xrt_setup.sh ] || . /etc/profile.d/xrt_setup.sh
    set -u
fi
python=${PYTHON:-python3}

wanted=$(cat "$here/python.txt")
found=$("$python" -c 'import platform, sys; print("%d.%d" % sys.version_info[:2], platform.machine())')
[ "$found" = "$wanted" ] || { echo "error: expected Python $wanted, found $found: make a wheelhouse for that one" >&2; exit 1; }

# What the image has stays as it is, as long as it will do; the constraints keep NumPy below 2.
"$python" -m pip install --no-index --find-links "$here/wheels" --constraint "$here/constraints.txt" \
    --disable-pip-version-check --root-user-action ignore "$(cat "$here/requirement.txt")"

if [ -d "$here/cache" ]; then
    cache=$("$python" -c 'from fracbnn_pynq.files import cache_directory; print(cache_directory())')
    mkdir -p "$cache"
    cp -R "$here/cache/." "$cache/"
    echo "copied models and overlays to $cache"
fi
echo "installed: try 'fracbnn doctor', then 'fracbnn classify PICTURE'"
