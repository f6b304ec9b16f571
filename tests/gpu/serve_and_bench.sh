#!/usr/bin/env bash
# Serves a full-size model with random weights from a real tritonserver, and measures what it delivers to streaming clients.
#
#   tests/gpu/serve_and_bench.sh TRITONSERVER OUT [LIKE [KEY=VALUE …]]
#
# For a host without network that has Python 3.12 with torch. TRITONSERVER: a folder with server/ (tritonserver, its libraries, the Python
# backend and its stub for 3.12), python/ (a relocatable Python 3.12 prefix) and site/ (numpy 1.26, tritonclient). OUT gets logs and JSON.
# LIKE: the published model (ERNIE-4.5-21B-A3B), KEY=VALUE: changes to its config.json. Environment, with what it is if not set:
#   ERNIE_TENSOR_FRAMEWORK=torch   PYTHON=python3 (its packages are used)   EXTRA_SITE= (more folders with packages, separated by ':')
#   ENGINE='{"max_num_seqs": 256, …}' (engine settings)   STREAMS=1,64,256   REQUESTS=3   PROMPT=512   TOKENS=256   WORKERS=4 (front end)
#   READY_SECONDS=420
set -euo pipefail
repo=$(cd "$(dirname "$0")/../.." && pwd)
root=$(realpath "${1:?usage: serve_and_bench.sh TRITONSERVER OUT [LIKE [KEY=VALUE …]]}") out=$(realpath -m "${2:?}")
like=${3:-ERNIE-4.5-21B-A3B} settings=("${@:4}") host=${PYTHON:-python3}
export ERNIE_TENSOR_FRAMEWORK=${ERNIE_TENSOR_FRAMEWORK:-torch} EXTRA_SITE=${EXTRA_SITE:-}
engine=${ENGINE:-'{"max_num_seqs": 256, "max_num_batched_tokens": 8192, "max_model_len": 2048}'}
work=$(mktemp -d) server=0 front=0

# One Python for the stubs and for everything here: the folder's own. The stub takes the first python3 on PATH and ignores PYTHONPATH, so a
# .pth file names the packages; numpy 1.26 (numpy 2 gives the stub empty tensors) comes before the host's. Headers: what compiles launchers.
packages=$root/python/lib/python3.12/site-packages
mkdir -p "$out" "$packages" "$root/python/include" "$root/nvidia_pytriton.libs"
{
    printf '%s\n' "$root/site" "$repo/kernels" "$repo/backend_src" "$repo/openai_frontend"
    tr ':' '\n' <<<"$EXTRA_SITE"
    "$host" -c 'import site; print("\n".join(site.getsitepackages()))'
} | sed '/^$/d' >"$packages/host.pth"
ln -sfn "$("$host" -c 'import sysconfig; print(sysconfig.get_path("include", "posix_prefix"))')" "$root/python/include/python3.12"
ln -sfn "$root"/server/libs/* "$root/nvidia_pytriton.libs/" # the program looks for its libraries there
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
export PATH=$root/python/bin:$PATH LD_LIBRARY_PATH=$root/server/libs:$root/python/lib PYTHONUNBUFFERED=1
[ -f "$root/python/include/python3.12/Python.h" ] || { echo "no Python.h: the first launch of a kernel would fail"; exit 1; }
python3 -c 'import numpy, tqdm, safetensors, sentencepiece, jinja2, grpc, tritonclient.grpc; assert numpy.__version__ < "2", numpy'

finish() {
    status=$?
    for pid in $front $server; do [ "$pid" = 0 ] || kill -TERM "$pid" 2>/dev/null || true; done
    for pid in $front $server; do [ "$pid" = 0 ] || wait "$pid" 2>/dev/null || true; done
    [ $status = 0 ] || tail -n 60 "$out/tritonserver.log" 2>/dev/null || true
    rm -rf "$work"
    exit $status
}
trap finish EXIT

# ready NAME PID HOST:PORT/PATH: returns once the address answers 200
ready() {
    for _ in $(seq $((${READY_SECONDS:-420} * 2))); do
        kill -0 "$2" 2>/dev/null || { echo "$1 has ended"; return 1; }
        python3 -c 'import sys, urllib.request; urllib.request.urlopen("http://" + sys.argv[1], timeout=2)' "$3" 2>/dev/null && return
        sleep 0.5
    done
    echo "$1 is not ready after ${READY_SECONDS:-420} s" && return 1
}

set_flags=() && [ ${#settings[@]} = 0 ] || set_flags=(--set "${settings[@]}")
python3 -m ernie_backend.cli random-checkpoint --like "$like" --no-weights --out "$work/model" "${set_flags[@]}"
python3 -c 'import json, sys; print(json.dumps({"model": sys.argv[1], "load_format": "dummy", **json.loads(sys.argv[2])}))' \
    "$work/model" "$engine" | tee "$work/engine.json"
start=$SECONDS
ERNIE_CONFIG=$work/engine.json TMPDIR=$work "$root/server/bin/tritonserver" --model-repository "$repo/model_repository" \
    --backend-directory "$root/server/backends" --backend-config "python,shm-region-prefix-name=serve-and-bench-$$-" \
    --disable-auto-complete-config --exit-timeout-secs 5 --allow-gpu-metrics false \
    --http-address 127.0.0.1 --grpc-address 127.0.0.1 --metrics-address 127.0.0.1 \
    >"$out/tritonserver.log" 2>&1 &
server=$!
ready tritonserver $server 127.0.0.1:8000/v2/health/ready
echo "tritonserver is ready after $((SECONDS - start)) s"
load=(python3 -m ernie_backend.cli bench server --streams "${STREAMS:-1,64,256}" --requests "${REQUESTS:-3}")
load+=(--prompt "${PROMPT:-512}" --tokens "${TOKENS:-256}")
"${load[@]}" --protocol grpc --url 127.0.0.1:8001 --out "$out/server_grpc.json"
if python3 -c 'import fastapi, uvicorn, aiohttp' 2>/dev/null; then
    python3 -m ernie_openai --host 127.0.0.1 --workers "${WORKERS:-4}" >"$out/front_end.log" 2>&1 &
    front=$!
    ready "the front end" $front 127.0.0.1:8180/health
    "${load[@]}" --protocol http --url 127.0.0.1:8180 --out "$out/server_http.json"
else
    echo "HTTP is not measured: fastapi, uvicorn or aiohttp is missing"
fi
