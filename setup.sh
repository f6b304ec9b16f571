#!/bin/sh
# Makes a virtual environment and installs into it; called by the Makefile.
#   setup.sh venv FOLDER EXTRA,EXTRA…    this project, editable, with the extras
#   setup.sh perf FOLDER                 NVIDIA's perf_analyzer, apart from the server's packages
#   setup.sh aiperf FOLDER               NVIDIA's AIPerf, likewise
# System packages that are missing are installed if the user is root and apt-get is there; otherwise one line says which.
set -eu
cd "$(dirname "$0")"

say() { echo "setup: $*" >&2; }

# need_packages REASON NAME…
need_packages() {
    reason=$1
    shift
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing system packages: $* ($reason)"
        [ -n "${apt_updated:-}" ] || { apt-get update -q >/dev/null; apt_updated=1; }
        DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@" >/dev/null
    else
        say "missing system packages: $* ($reason). Install them (sudo apt-get install $*), then try again."
        exit 1
    fi
}

# want_packages REASON NAME…: the same, but going on without them
want_packages() {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        (need_packages "$@") || say "went on without them"
    else
        reason=$1
        shift
        say "not there: $* ($reason); its tests will be skipped"
    fi
}

python_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true; }

find_python() {
    for candidate in ${PYTHON:-python3.11 python3 python3.12}; do
        case "$(python_version "$candidate")" in
            3.11 | 3.12) echo "$candidate"; return ;;
        esac
    done
    say "no Python 3.11 or 3.12${PYTHON:+ (PYTHON=$PYTHON)}. Install python3.11, or set PYTHON."
    exit 1
}

has_libpython() {
    "$1" - <<'PYTHON'
import pathlib, sys, sysconfig
name = "libpython%d.%d.so.1.0" % sys.version_info[:2]
multiarch = sysconfig.get_config_var("MULTIARCH") or ""
folders = [sysconfig.get_config_var("LIBDIR") or "", sys.base_prefix + "/lib", "/usr/lib/" + multiarch, "/usr/lib", "/usr/lib64", "/usr/local/lib"]
sys.exit(not any((pathlib.Path(folder) / name).is_file() for folder in folders))
PYTHON
}

make_venv() {
    "$1/bin/python" -m pip --version >/dev/null 2>&1 && return
    python=$(find_python)
    version=$(python_version "$python")
    "$python" -c 'import ensurepip, venv' 2>/dev/null || need_packages "to make the virtual environment" "python$version-venv"
    say "making $1 with Python $version"
    "$python" -m venv "$1"
}

case "${1:-}" in
    venv)
        make_venv "$2"
        has_libpython "$2/bin/python" || need_packages "tritonserver's Python backend links it" "libpython$(python_version "$2/bin/python")"
        pip="$2/bin/python -m pip --disable-pip-version-check --quiet"
        case ",$3," in
            *,test,*)
                echo 'int main(void) { return 0; }' | gcc -xc - -o /dev/null 2>/dev/null || need_packages "a test builds a fake libcuda" gcc libc6-dev
                command -v chromium >/dev/null || command -v google-chrome >/dev/null || want_packages "a test opens the status page in it" chromium
                # First and alone: transformers would otherwise take whichever torch it finds newest.
                $pip install "$(sed -n 's/.*"\(torch==[^"]*\)".*/\1/p' pyproject.toml | sort -u)"
                ;;
        esac
        say "installing ernie-triton[$3]"
        PYTHONWARNINGS=ignore $pip install --editable ".[$3]"
        ;;
    perf)
        make_venv "$2"
        "$2/bin/python" -m pip --disable-pip-version-check --quiet install --no-deps tritonclient==2.51.0 'nvidia-cuda-runtime-cu12>=12.6,<13'
        ldd "$2/bin/perf_analyzer" | grep -q 'libb64.*not found' && need_packages "perf_analyzer links it" libb64-0d
        exit 0
        ;;
    aiperf)
        make_venv "$2"
        "$2/bin/python" -m pip --disable-pip-version-check --quiet install 'aiperf>=0.13,<0.14'
        ;;
    *)
        say "usage: setup.sh venv FOLDER EXTRAS | setup.sh perf FOLDER | setup.sh aiperf FOLDER"
        exit 2
        ;;
esac
