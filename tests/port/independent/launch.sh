#!/bin/bash
#SBATCH --gres=gpu:8
#SBATCH --constraint=a100
module load cuda/12.1
export NCCL_SOCKET_IFNAME=eth0
export NCCL_IB_HCA=mlx5
export NCCL_ALGO=Ring
export CUDA_VISIBLE_DEVICES=0,1,2,3
NGPU=$(nvidia-smi -L | wc -l)
torchrun --nproc_per_node=gpu train.py --device cuda --backend nccl
docker run --gpus all --runtime=nvidia nvcr.io/nvidia/pytorch:24.01-py3
nsys profile -o out python train.py
