# shellcheck shell=sh
# Sourced by every command in scripts/: goes to the root of the checkout and brings its environment up to date.
#
#   PYTHON           the interpreter to use; the default is the first of python3, python3.14 ... python3.11 that is new enough
#   RESILIENCE_VENV  the directory of the environment (default: .venv in the checkout), so that several Pythons can have one each
#
# uv makes the environment. The pinned uv comes from PyPI, so that nothing but Python has to be there; a uv of this machine is not used.
# It locks the environment while it works, and installs nothing when pyproject.toml and Python are as they were.
# Afterwards $python is the environment's interpreter, $venv its directory, and the working directory is the root.

uv_version=0.13.9

say() {
    printf '%s\n' "$*" >&2
}

# Print a command as a person could type it, and run it.
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

# Print the path of an interpreter, if it is new enough and can make environments. The path is that of the program itself: with the path
# of a wrapper, such as a shim of pyenv, uv would make the environment again in each run.
resolve_python() {
    "$1" -I -c 'import sys, venv, ensurepip; assert sys.version_info >= (3, 11); print(sys.executable)' 2>/dev/null
}

# Print the path of an interpreter to make the environment with.
find_python() {
    for candidate in "$python" python3 python3.14 python3.13 python3.12 python3.11; do
        resolve_python "$candidate" && return
    done
    fail "needs Python 3.11 or later with the venv module (Debian: apt install python3-venv); set PYTHON to one"
}

# True if one of the arguments is a path in a folder of the checkout: has_path FOLDER [arguments]
has_path() {
    folder=$1
    shift
    for argument in "$@"; do
        case $argument in
            "$folder" | "$folder"/* | "./$folder" | "./$folder"/* | "$PWD/$folder" | "$PWD/$folder"/*) return 0 ;;
        esac
    done
    return 1
}

# Install uv from PyPI. The program is one file that is moved into place, so two scripts may do this at once.
install_uv() (
    mkdir -p "${uv%/*}" && work=$(mktemp -d "$root/.venv-uv/XXXXXX") || exit
    trap 'rm -rf "$work"' EXIT
    run "$1" -I -m venv "$work" &&
        run "$work/bin/python" -I -m pip install --quiet --disable-pip-version-check "uv==$uv_version" >&2 &&
        mv -f "$work/bin/uv" "$uv"
)

# Bring an environment of another command up to date: make_venv DIRECTORY [arguments of uv pip install]. Packages that the arguments do
# not need are removed.
make_venv() {
    directory=$1
    shift
    [ "$("$directory/bin/python" -V 2>/dev/null)" = "$("$python" -V)" ] ||
        run "$uv" venv --quiet --clear --python "$python" "$directory" || return
    run "$uv" pip install --quiet --exact --compile-bytecode --python "$directory" "$@"
}

# Build the wheel that would be shipped, and print its path.
build_wheel() {
    run "$uv" build --quiet --wheel --clear --out-dir "$venv-dist" . >&2 && printf '%s\n' "$venv-dist"/*.whl
}

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P) || exit 2
venv=${RESILIENCE_VENV:-$root/.venv}
case $venv in
    /*) ;;
    *) venv=$PWD/$venv ;;
esac
cd "$root" || exit 2
python=$venv/bin/python
uv=$root/.venv-uv/$uv_version/uv

compile= # a new environment, since tests measure how long programs take to start
[ -x "$python" ] || compile=--compile-bytecode
base=
if [ -n "${PYTHON:-}" ]; then
    base=$(resolve_python "$PYTHON") || fail "PYTHON=$PYTHON is no Python 3.11 or later with venv and ensurepip"
elif [ ! -x "$uv" ] || [ ! -x "$python" ]; then
    base=$(find_python) || exit 2
fi
[ -x "$uv" ] || install_uv "$base" || fail "uv could not be installed from PyPI; see above"
unset VIRTUAL_ENV # of an activated environment; uv would warn that it is another one
export UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT="$venv"
# As pip: trust the certificates of the system, and use the mirror of pip's environment.
export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-true}"
[ -n "${UV_DEFAULT_INDEX:-}" ] || [ -z "${PIP_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX="$PIP_INDEX_URL"
run "$uv" sync --quiet --inexact --extra dev $compile ${base:+--python "$base"} >&2 ||
    fail "the environment in $venv could not be made; see above (RESILIENCE_VENV names another directory)"
unset UV_PROJECT_ENVIRONMENT base compile
