"""A T5 encoder in four processes on the CPU, two for the heads and two for the batch, with tensor parallelism
and FSDP2 of torch. The losses are those of one process: python examples/tensor_parallel_t5.py
"""

import tempfile

import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleOutput,
    RowwiseParallel,
    parallelize_module,
)

import posenc_ext

DATA, TENSOR = 2, 2  # processes for the batch, and for the heads
VOCABULARY, DIM, HEADS, HIDDEN, LAYERS = 50, 32, 4, 64, 2
BATCH, LENGTH, STEPS = 8, 20, 5


class Attention(nn.Module):
    """Self-attention of T5: unscaled scores and a bias by distance."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(DIM, DIM, bias=False) for _ in range(4))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (project(x).unflatten(-1, (-1, DIM // HEADS)).mT for project in (self.q, self.k, self.v))
        q, k, v = (heads.permute(0, 3, 1, 2) for heads in (q, k, v))
        y = (q @ k.mT + bias).softmax(-1) @ v
        return self.o(y.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.attention_norm, self.mlp_norm = nn.RMSNorm(DIM), nn.RMSNorm(DIM)
        self.wi, self.wo = nn.Linear(DIM, HIDDEN, bias=False), nn.Linear(HIDDEN, DIM, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), bias)
        return x + self.wo(self.wi(self.mlp_norm(x)).relu())


class Encoder(nn.Module):
    """All layers share one bias, as in T5."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, DIM)
        self.bias = posenc_ext.nn.T5RelativePositionBias(HEADS)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.head = nn.Linear(DIM, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x, bias = self.embedding(tokens), self.bias(tokens.shape[1], tokens.shape[1])
        for layer in self.layers:
            x = layer(x, bias)
        return self.head(x)


def parallelize(model: Encoder, mesh: DeviceMesh) -> None:
    """Shards heads and hidden channels over "tensor", and each remaining parameter over "data"."""
    plan = {  # a column of the table is a head; each process has the bias of its heads, [1, heads, L, L]
        "bias.relative_attention_bias": ColwiseParallel(use_local_output=False),
        "bias": PrepareModuleOutput(output_layouts=Shard(1), desired_output_layouts=Shard(1)),
    }
    for name in ("attention.q", "attention.k", "attention.v", "wi"):
        plan[f"layers.*.{name}"] = ColwiseParallel()
    for name in ("attention.o", "wo"):
        plan[f"layers.*.{name}"] = RowwiseParallel()
    parallelize_module(model, mesh["tensor"], plan)
    for layer in model.layers:
        fully_shard(layer, mesh=mesh["data"])
    fully_shard(model, mesh=mesh["data"])


def train(model: Encoder, part: slice = slice(None)) -> list[float]:
    """The losses of a few steps, in which the model learns to predict the previous token."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, foreach=False)
    losses = []
    for _ in range(STEPS):
        tokens = torch.randint(VOCABULARY, (BATCH, LENGTH), generator=generator)[part]
        loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(1, 1).flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def initial_model() -> Encoder:
    torch.manual_seed(0)
    return Encoder()


def work(rank: int, folder: str) -> None:
    """Runs one of the processes; the first one saves the losses."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=DATA * TENSOR)
    mesh = init_device_mesh("cpu", (DATA, TENSOR), mesh_dim_names=("data", "tensor"))
    model = initial_model()
    parallelize(model, mesh)
    size = BATCH // DATA
    first = mesh["data"].get_local_rank() * size
    losses = torch.tensor(train(model, slice(first, first + size)))
    dist.all_reduce(losses)
    if rank == 0:
        torch.save(losses / (DATA * TENSOR), f"{folder}/losses")
    dist.destroy_process_group()


def main() -> None:
    alone = torch.tensor(train(initial_model()))
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(work, (folder,), nprocs=DATA * TENSOR)
        together = torch.load(f"{folder}/losses")
    print("losses in one process:    ", *(f"{loss:.6f}" for loss in alone))
    print(f"losses in {DATA} x {TENSOR} processes:", *(f"{loss:.6f}" for loss in together))
    difference = (together - alone).abs().max().item()
    print(f"largest difference: {difference:.1e}, at most 1e-5: {difference <= 1e-5}")


if __name__ == "__main__":
    main()
