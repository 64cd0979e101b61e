"""accelerate's loop: two processes, gradient accumulation, clipping."""

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from small_llama import model, rows

set_seed(0)
accelerator = Accelerator(gradient_accumulation_steps=2)
net = model()
optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
data = [{name: torch.tensor(ids) for name, ids in row.items()} for row in rows(64)]
net, optimizer, loader = accelerator.prepare(net, optimizer, torch.utils.data.DataLoader(data, batch_size=4))
for batch in loader:
    with accelerator.accumulate(net):
        loss = net(**batch).loss
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    accelerator.print(f"loss {loss.item():.4f}")
