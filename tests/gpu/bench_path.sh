#!/usr/bin/env bash
# Measures the path around the model (`ernie-triton bench path`) on a many-core host without network; no GPU is used.
#
#   tests/gpu/bench_path.sh TRITONSERVER OUT [flags of `bench path`]
#
# TRITONSERVER: as for serve_and_bench.sh. The host's Python (PYTHON=python3) gives what the folder lacks; EXTRA_SITE names more folders with
# packages, separated by ':' (fastapi, uvicorn, httptools, uvloop, aiohttp). OUT gets path.json and the table.
set -euo pipefail
repo=$(cd "$(dirname "$0")/../.." && pwd)
root=$(realpath "${1:?usage: bench_path.sh TRITONSERVER OUT [flags]}") out=$(realpath -m "${2:?}") host=${PYTHON:-python3}
packages=$root/python/lib/python3.12/site-packages
mkdir -p "$out" "$packages" "$root/nvidia_pytriton.libs"
{
    printf '%s\n' "$root/site" "$repo/kernels" "$repo/backend_src" "$repo/openai_frontend"
    tr ':' '\n' <<<"${EXTRA_SITE:-}"
    "$host" -c 'import site; print("\n".join(site.getsitepackages()))'
} | sed '/^$/d' >"$packages/host.pth"
ln -sfn "$root"/server/libs/* "$root/nvidia_pytriton.libs/" # the program looks for its libraries there
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
export PATH=$root/python/bin:$PATH LD_LIBRARY_PATH=$root/server/libs:$root/python/lib PYTHONUNBUFFERED=1
python3 -c 'import numpy, tqdm, sentencepiece, jinja2, grpc, tritonclient.grpc, fastapi, uvicorn, aiohttp; assert numpy.__version__ < "2", numpy'
nproc
uptime
python3 -m ernie_backend.cli bench path --tritonserver "$root/server" --step-ms "${STEP_MS:-5}" --workers "${WORKERS:-4}" --processes 4 \
    --out "$out/path.json" "${@:3}" 2>&1 | tee "$out/path.txt"
