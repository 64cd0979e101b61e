import torch
import bitsandbytes as bnb
import xformers.ops as xops
from flash_attn import flash_attn_func, flash_attn_varlen_func
from flash_attn.bert_padding import unpad_input
from apex.optimizers import FusedAdam
from apex import amp
import transformer_engine.pytorch as te
import deepspeed
import cupy as cp
import pynvml
from torch.nn.attention.flex_attention import flex_attention
from liger_kernel.transformers import apply_liger_kernel_to_llama
from vllm import LLM
import nvidia.dali as dali
from numba import cuda as ncuda
from torchao.float8 import convert_to_float8_training
import faiss
from mamba_ssm import Mamba
import deep_ep
from grouped_gemm import ops


def build(cfg, m):
    opt = bnb.optim.Adam8bit(m.parameters())
    q = torch.randn(1, 4, 2, 8, device="cuda", dtype=torch.float16)
    return flash_attn_func(q, q, q, causal=True), xops.memory_efficient_attention(q, q, q)

x = torch.zeros(4, dtype=torch.float8_e4m3fn)
r = torch._scaled_mm
