#!/usr/bin/env bash
# One run on several nodes with torchrun. The same line on every node, within ten minutes of each other:
#
#   HEAD=node-a bash $(dipod recipes --launch torchrun) gsm8k-llada-spg-dipod --out runs/big
#
# HEAD is the host name or the address of one of the nodes. All need the same packages, and the run folder on a file
# system that they share. When a process dies or a node is lost and comes back, all processes begin again from the last
# checkpoint by themselves (--resume auto), RESTARTS times.
set -euo pipefail
: "${HEAD:?give the host name of the first node: HEAD=node-a}"
export DIPOD_START_MINUTES="${DIPOD_START_MINUTES:-10}" DIPOD_WAIT_MINUTES="${DIPOD_WAIT_MINUTES:-30}"
exec torchrun --nnodes "${NODES:-2}" --nproc-per-node "${GPUS:-8}" --max-restarts "${RESTARTS:-3}" \
  --rdzv-backend c10d --rdzv-endpoint "$HEAD:${PORT:-29400}" --rdzv-id "${JOB:-dipod}" \
  -m dipod train "$@" --resume auto
