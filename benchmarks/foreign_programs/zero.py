"""DeepSpeed's ZeRO, of the stage that is named."""

import sys

import deepspeed
import torch
from small_llama import model, rows

stage = int(sys.argv[1])
deepspeed.init_distributed()
config = {
    "train_micro_batch_size_per_gpu": 4,
    "zero_optimization": {"stage": stage},
    "zero_allow_untested_optimizer": True,
    "gradient_clipping": 1.0,
}
net = model()
optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
engine, *_ = deepspeed.initialize(model=net, optimizer=optimizer, config=config)
rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
data = [{name: torch.tensor(ids) for name, ids in row.items()} for row in rows(64)][rank::ranks]
for batch in torch.utils.data.DataLoader(data, batch_size=4):
    loss = engine(**{name: ids.to(engine.device) for name, ids in batch.items()}).loss
    engine.backward(loss)
    engine.step()
    if rank == 0:
        print(f"loss {loss.item():.4f}")
