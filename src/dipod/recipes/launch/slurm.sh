#!/usr/bin/env bash
#SBATCH --job-name=dipod
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#
#   sbatch $(dipod recipes --launch slurm) gsm8k-llada-spg-dipod --out runs/big
#   LAUNCH=fsdp sbatch --nodes 4 $(dipod recipes --launch slurm) gsm8k-llada-spg-dipod --out runs/big
#
# One task a node: it starts that node's processes and, when one dies, all of them again from the last checkpoint
# (--resume auto). Preempted, the job is queued again and goes on there. Five minutes before the time is up it saves and
# ends; for a run that needs longer, submit the same line several times with --dependency=singleton: each job goes on
# where the one before has saved, and ends at once when nothing is left to do.
# LAUNCH is ddp, fsdp or zero2; RESTARTS is how often processes are started again within a job. The run folder must be
# on a file system that all nodes share.
set -euo pipefail
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
gpus=${SLURM_GPUS_ON_NODE:-1}
export HEAD=${nodes%%$'\n'*} PORT=$((29400 + SLURM_JOB_ID % 1000)) GPUS=$gpus PROCESSES=$((gpus * SLURM_JOB_NUM_NODES))
export CONFIG; CONFIG=$(dipod recipes --launch "${LAUNCH:-ddp}")
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-240}  # seconds to finish a step and to save
srun --kill-on-bad-exit=1 bash -c 'exec accelerate launch --config_file "$CONFIG" \
  --num_machines "$SLURM_JOB_NUM_NODES" --machine_rank "$SLURM_NODEID" --num_processes "$PROCESSES" \
  --main_process_ip "$HEAD" --main_process_port "$PORT" --rdzv_backend c10d --max_restarts "${RESTARTS:-3}" \
  -m dipod train "$@" --resume auto' train "$@"
