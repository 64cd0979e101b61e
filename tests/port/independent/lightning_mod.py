import lightning as L
import torch
from pytorch_lightning.strategies import DDPStrategy

class M(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.l = torch.nn.Linear(4, 1)
    def training_step(self, b, i):
        z = torch.randn(2, 2).type_as(self.l.weight)
        m = torch.zeros(3, device=self.device)
        torch.cuda.empty_cache()
        return self.l(b).mean()
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())

if __name__ == "__main__":
    L.seed_everything(1)
    trainer = L.Trainer(accelerator="gpu", devices=8, precision="bf16-mixed",
                        strategy=DDPStrategy(process_group_backend="nccl"))
    trainer2 = L.Trainer(accelerator="cuda", gpus=-1)
