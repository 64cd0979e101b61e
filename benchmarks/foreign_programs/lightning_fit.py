"""Lightning's Fabric: it knows no NPU, so that torch_npu's transfer_to_npu stands for CUDA."""

import os

if os.environ.get("ASCEND_EMULATOR_LIBRARIES"):
    from torch_npu.contrib import transfer_to_npu  # noqa: F401

import torch
from lightning.fabric import Fabric, seed_everything
from small_llama import model, rows

seed_everything(0)
fabric = Fabric(accelerator="cuda", devices=1)
net = model()
net, optimizer = fabric.setup(net, torch.optim.AdamW(net.parameters(), lr=1e-3))
data = [{name: torch.tensor(ids) for name, ids in row.items()} for row in rows(64)]
for batch in fabric.setup_dataloaders(torch.utils.data.DataLoader(data, batch_size=4)):
    loss = net(**batch).loss
    optimizer.zero_grad()
    fabric.backward(loss)
    fabric.clip_gradients(net, optimizer, max_norm=1.0)
    optimizer.step()
    print(f"loss {loss.item():.4f}")
