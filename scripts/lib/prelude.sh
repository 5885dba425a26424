# shellcheck shell=sh
# Sourced by the scripts beside it: goes to the checkout's root, finds a Python, and installs into an environment when something changed.
#
#   PYTHON           the interpreter to use; without it the first of python3, python3.14 ... python3.11 that is new enough
#   RESILIENCE_VENV  the environment's directory (.venv in the checkout), so that several Pythons can have one each
#
# Afterwards $python is the environment's interpreter, $venv its directory, and the working directory is the root.

say() {
    printf '%s\n' "$*" >&2
}

# Prints a command as one could type it, and runs it.
run() {
    printf '+' >&2
    for word in "$@"; do
        case $word in
            '' | *[!A-Za-z0-9_./:=,+@%-]*) printf " '%s'" "$(printf '%s' "$word" | sed "s/'/'\\\\''/g")" >&2 ;;
            *) printf ' %s' "$word" >&2 ;;
        esac
    done
    printf '\n' >&2
    "$@"
}

fail() {
    say "${0##*/}: $*"
    exit 2
}

# What an interpreter is, so that a change of it is seen. The same for a virtual environment and for what it was made from.
identity() {
    "$1" -I -S -c 'import sys; print(sys.implementation.name, *sys.version_info[:3], sys.base_prefix)' 2>/dev/null
}

usable() {
    "$1" -I -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

# Prints an interpreter to make the environment with.
find_python() {
    if [ -n "${PYTHON:-}" ]; then
        usable "$PYTHON" || fail "PYTHON=$PYTHON is no Python 3.11 or later with venv and ensurepip"
        printf '%s\n' "$PYTHON"
        return
    fi
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        if usable "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    if command -v uv >/dev/null 2>&1; then
        uv python find --no-project '>=3.11' 2>/dev/null && return
        uv python install 3.13 >&2 && uv python find --no-project '>=3.11' && return
    fi
    fail "needs Python 3.11 or later with the venv module (Debian: apt install python3-venv); set PYTHON to one"
}

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P) || exit 2
venv=${RESILIENCE_VENV:-$root/.venv}
case $venv in
    /*) ;;
    *) venv=$PWD/$venv ;;
esac
cd "$root" || exit 2
python=$venv/bin/python

# The stamp holds what was installed; it is written last, so a broken install has none.
checksum=$(cksum <pyproject.toml) || exit 2
if [ -n "${PYTHON:-}" ]; then
    wanted=$(identity "$PYTHON") || fail "PYTHON=$PYTHON does not run"
else
    wanted=$(identity "$python") || wanted=
fi
stamp=
[ ! -r "$venv/resilience-stamp" ] || IFS= read -r stamp <"$venv/resilience-stamp" || :
if [ -z "$wanted" ] || [ "$stamp" != "$checksum $root $wanted" ] || [ ! -x "$python" ]; then
    base=$(find_python) || exit 2
    run "$base" -I "$root/scripts/lib/make_venv.py" "$venv" || fail "the environment in $venv could not be made; see above"
fi
unset base checksum stamp wanted
