#!/usr/bin/env bash
# Train as a Slurm job.
#   [GPUS=8 GPUS_PER_NODE=8 CPUS_PER_TASK=5 GRES=gpu:8 SRUN_ARGS=...] \
#       bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of tools/train.py]
# One process a GPU. Where nodes have no GPUs, GRES=none runs GPUS processes on their CPUs.
# For several jobs on one node set MASTER_PORT.
set -euo pipefail

if [ $# -lt 4 ]; then
    echo "usage: bash $0 PARTITION JOB_NAME CONFIG WORK_DIR [arguments of tools/train.py]" >&2
    exit 2
fi
ROOT="$(cd "$(dirname "$0")/.." && pwd)"
GPUS="${GPUS:-8}"
# A job on fewer GPUs than one node has must not ask for a whole node.
GPUS_PER_NODE="${GPUS_PER_NODE:-$((GPUS < 8 ? GPUS : 8))}"

# SRUN_ARGS is left unquoted: it holds several arguments.
# shellcheck disable=SC2086
PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" exec srun \
    --partition="$1" \
    --job-name="$2" \
    --gres="${GRES:-gpu:$GPUS_PER_NODE}" \
    --ntasks="$GPUS" \
    --ntasks-per-node="$GPUS_PER_NODE" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$ROOT/tools/train.py" "$3" --work-dir "$4" --launcher slurm "${@:5}"
