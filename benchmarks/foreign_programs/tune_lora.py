"""torchtune's Llama with LoRA, its loss in chunks and its memory savings."""

import torch
from torchtune.models.llama3_2 import lora_llama3_2
from torchtune.modules import TransformerSelfAttentionLayer
from torchtune.modules.loss import CEWithChunkedOutputLoss
from torchtune.modules.peft import get_adapter_params, set_trainable_params
from torchtune.training import set_activation_checkpointing
from torchtune.utils import get_device

torch.manual_seed(0)
device = get_device("npu" if getattr(torch, "npu", None) is not None and torch.npu.is_available() else "cpu")
net = lora_llama3_2(
    lora_attn_modules=["q_proj", "v_proj"], vocab_size=64, num_layers=2, num_heads=4, num_kv_heads=2, embed_dim=64,
    max_seq_len=64, intermediate_dim=128, lora_rank=4, lora_alpha=8,
)  # fmt: skip
set_trainable_params(net, get_adapter_params(net))
set_activation_checkpointing(net, auto_wrap_policy={TransformerSelfAttentionLayer})
net.to(device)
loss_of = CEWithChunkedOutputLoss(num_output_chunks=4)
net.set_num_output_chunks(loss_of.num_output_chunks)
optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-3)
tokens = torch.randint(0, 64, (8, 4, 33), generator=torch.Generator().manual_seed(0))
for batch in tokens.to(device):
    loss = loss_of(net(batch[:, :-1]), batch[:, 1:])
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
    print(f"loss {loss.item():.4f}")
