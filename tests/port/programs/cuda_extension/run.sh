#!/usr/bin/env bash
# builds the extension and trains on the first two cards
set -e
export CUDA_VISIBLE_DEVICES=0,1
export TORCH_CUDA_ARCH_LIST="8.0;9.0"
nvidia-smi
python setup.py install
python train.py
