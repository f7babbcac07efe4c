#!/usr/bin/env bash
# Train with several processes per machine: GPUs where there are some, else CPU.
#   bash tools/dist_train.sh CONFIG PROCESSES_PER_NODE [arguments of tools/train.py]
# For several machines set NNODES, NODE_RANK and MASTER_ADDR; for several jobs on one machine, PORT.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: bash $0 CONFIG GPUS [arguments of tools/train.py]" >&2
    exit 2
fi
ROOT="$(cd "$(dirname "$0")/.." && pwd)"

PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$2" \
    "$ROOT/tools/train.py" "$1" --launcher pytorch "${@:3}"
