"""Models for the C++ programs of this folder, each with inputs and the outputs that Python computed for them:
make_models.py FOLDER [NAME...]. NAME is ops.pt2, encoder.pt2 or encoder.pt; without one, all are made."""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

import posenc_ext

DIM, HEADS = 8, 2
BATCH, LENGTH = Dim("batch", min=2, max=64), Dim("length", min=3, max=256)


class EveryOp(nn.Module):
    """Calls every op once, on scores [B, heads, L, L] and rows x [B, L, D] of any batch and length.

    The ops that write into an argument are missing: an exported program has those that return a new tensor.
    Dropout has a probability of 1 or a given seed, so that its result is known.
    """

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(16, HEADS))
        self.window = nn.Parameter(torch.randn(3 * 5, HEADS))
        self.window_and_class = nn.Parameter(torch.randn(3 * 5 + 3, HEADS))
        self.slopes = nn.Parameter(torch.rand(HEADS))
        self.embedding = nn.Parameter(torch.randn(512, DIM))
        self.diagonals = nn.Parameter(torch.randn(HEADS, 512))
        self.class_token = nn.Parameter(torch.randn(1, 1, DIM))

    def forward(
        self, x: Tensor, scores: Tensor, window_scores: Tensor, times: Tensor, index: Tensor, seed: Tensor
    ) -> dict[str, Tensor]:
        outputs = self.sinusoids(x, times, index, seed)
        outputs |= self.position_embeddings(x, index, seed)
        outputs |= self.biases(x, index)
        outputs |= self.softmaxes(scores, window_scores, index)
        outputs |= self.attention(scores, window_scores)
        return outputs | self.gradients(x, scores, window_scores, times, index, seed)

    def sinusoids(self, x: Tensor, times: Tensor, index: Tensor, seed: Tensor) -> dict[str, Tensor]:
        length, dim = x.shape[1:]
        bfloat16 = {"dtype": torch.bfloat16}
        return {
            "sinusoidal_table": posenc_ext.sinusoidal_table(length, dim, start=7, layout="concat"),
            "sinusoidal_table, bfloat16": posenc_ext.sinusoidal_table(length, dim, **bfloat16),
            "sinusoidal": posenc_ext.sinusoidal(times, dim + 1, freq_shift=1.0, odd="zero"),
            "add_sinusoidal": posenc_ext.add_sinusoidal(x, start=length, x_scale=8**0.5),
            "add_sinusoidal.offsets": posenc_ext.add_sinusoidal(x, start=index[:, 0]),
            "add_sinusoidal.positions": posenc_ext.add_sinusoidal(x, positions=index),
            "add_sinusoidal, dropout": posenc_ext.add_sinusoidal(x, dropout_p=1.0, training=True),
            "_scale_dropout": torch.ops.posenc_ext._scale_dropout(x, 2.0, 0.5, seed),
        }

    def position_embeddings(self, x: Tensor, index: Tensor, seed: Tensor) -> dict[str, Tensor]:
        rows = self.embedding[: x.shape[1]]
        tokens = [self.class_token]
        with_seed = torch.ops.posenc_ext._add_position_embedding
        return {
            "add_position_embedding": posenc_ext.add_position_embedding(
                x, self.embedding[: x.shape[1] + 1], tokens
            ),
            "add_position_embedding, no embed_prefix": posenc_ext.add_position_embedding(
                x, rows, tokens, embed_prefix=False, x_scale=0.5
            ),
            "add_position_embedding.positions": posenc_ext.add_position_embedding(
                x, self.embedding, positions=index
            ),
            "add_position_embedding, no prefix_tokens": posenc_ext.add_position_embedding(x, rows),
            "_add_position_embedding, dropout": with_seed(x, rows, tokens, False, 1.0, True, 0.5, seed),
        }

    def biases(self, x: Tensor, index: Tensor) -> dict[str, Tensor]:
        length = x.shape[1]
        return {
            "window_bias": posenc_ext.window_bias(self.window_and_class, [2, 3], prefix_tokens=1),
            "window_bias, query_size": posenc_ext.window_bias(self.window, [2, 3], query_size=[4, 3]),
            "t5_bias": posenc_ext.t5_bias(self.table, length, length + 1, q_offset=1, bidirectional=False),
            "gather_bias": posenc_ext.gather_bias(self.table, index.unsqueeze(1) % 16),
            "alibi_slopes": posenc_ext.alibi_slopes(12),
            "alibi_bias": posenc_ext.alibi_bias(self.slopes, length, length, causal=True),
        }

    def softmaxes(self, scores: Tensor, window_scores: Tensor, index: Tensor) -> dict[str, Tensor]:
        length = scores.shape[-1]
        mask = index[:, None, None] > 0
        diagonals = self.diagonals[:, : 2 * length - 1]
        pairs = (index[0].unsqueeze(1) + index[0]) % 16
        causal = {"causal": True, "scale": 0.5}
        return {
            "window_bias_softmax": posenc_ext.window_bias_softmax(window_scores, self.window, [2, 3]),
            "t5_bias_softmax": posenc_ext.t5_bias_softmax(scores, self.table, mask=mask),
            "alibi_bias_softmax": posenc_ext.alibi_bias_softmax(scores, self.slopes, **causal),
            "alibi_bias_softmax, dropout": posenc_ext.alibi_bias_softmax(
                scores, self.slopes, dropout_p=1.0, training=True
            ),
            "diagonal_bias_softmax": posenc_ext.diagonal_bias_softmax(scores, diagonals, **causal),
            "gather_bias_softmax": posenc_ext.gather_bias_softmax(scores, self.table, pairs),
            "bias_softmax": posenc_ext.bias_softmax(scores, scores[0], mask=mask),
            "bias_softmax_": posenc_ext.bias_softmax(scores * 2, scores[0], inplace=True),
        }

    def attention(self, scores: Tensor, window_scores: Tensor) -> dict[str, Tensor]:
        qkv = (scores[..., :2],) * 3
        window_qkv = (window_scores,) * 3
        diagonals = self.diagonals[:, : 2 * scores.shape[-1] - 1]
        return {
            "window_attention": posenc_ext.window_attention(*window_qkv, self.window, [2, 3], scale=1.0),
            "t5_attention": posenc_ext.t5_attention(*qkv, self.table, max_distance=16),
            "alibi_attention": posenc_ext.alibi_attention(*qkv, self.slopes, causal=True),
            "diagonal_attention": posenc_ext.diagonal_attention(*qkv, diagonals),
        }

    def gradients(
        self,
        x: Tensor,
        scores: Tensor,
        window_scores: Tensor,
        times: Tensor,
        index: Tensor,
        seed: Tensor,
    ) -> dict[str, Tensor]:
        """The ops that compute gradients, some of which have two results."""
        ops = torch.ops.posenc_ext
        length = x.shape[1]
        angles = ops._sinusoidal(times, DIM, 10000.0, 0.0, 1.0, "interleaved", "error", 1)
        pairs = (index[0].unsqueeze(1) + index[0]) % 16
        outputs = {
            "_sinusoidal": angles,
            "_sinusoidal_backward": ops._sinusoidal_backward(
                angles, times, 10000.0, 0.0, 1.0, "interleaved", "error", 0
            ),
            "_sum_batch": ops._sum_batch(x, True),
            "_sum_positions": ops._sum_positions(x, index, 512),
            "_window_bias_backward": ops._window_bias_backward(window_scores[0], 15, [2, 3]),
            "_t5_bias_backward": ops._t5_bias_backward(scores[0], 16, length, length),
            "_gather_bias_backward": ops._gather_bias_backward(scores[0], pairs, 16),
            "_alibi_bias_backward": ops._alibi_bias_backward(scores[0], causal=True),
        }
        window = ops._window_bias_softmax_backward(
            window_scores, window_scores, [15, HEADS], [2, 3], scale=1.0
        )
        diagonal = ops._diagonal_bias_softmax_backward(scores, scores, [HEADS, 2 * length - 1], scale=0.5)
        gather = ops._gather_bias_softmax_backward(scores, scores, [16, HEADS], pairs, scale=1.0)
        dense = ops._bias_softmax_backward(scores, scores, [HEADS, length, length], scale=1.0)
        both = {"window": window, "diagonal": diagonal, "gather": gather, "dense": dense}
        for kind, (scores_gradient, table_gradient) in both.items():
            outputs[f"{kind} softmax backward, scores"] = scores_gradient
            outputs[f"{kind} softmax backward, table"] = table_gradient
        return outputs


def every_op_inputs(batch: int, length: int) -> tuple[Tensor, ...]:
    x, scores = torch.randn(batch, length, DIM), torch.randn(batch, HEADS, length, length)
    times, index = torch.rand(batch) * 1000, torch.arange(batch * length).view(batch, length)
    return x, scores, torch.randn(batch, HEADS, 6, 6), times, index, torch.tensor(5)


class Encoder(nn.Module):
    """Two Transformer layers, one with T5's bias and one with ALiBi, over tokens with sinusoids."""

    def __init__(self, dim: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Linear(DIM, dim)
        self.positions = posenc_ext.nn.SinusoidalPositionalEncoding(dim, dropout=0.0, batch_first=True)
        self.t5 = posenc_ext.nn.T5BiasSoftmax(heads)
        self.alibi = posenc_ext.nn.AlibiBiasSoftmax(heads)
        self.qkv = nn.ModuleList([nn.Linear(dim, 3 * dim) for _ in range(2)])
        self.out = nn.Linear(dim, DIM)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, L, 8] -> [B, L, 8]."""
        y = self.positions(self.embed(x))
        for layer, qkv in enumerate(self.qkv):
            q, k, v = qkv(y).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
            scores = torch.matmul(q, k.transpose(-2, -1))
            attention = self.t5(scores) if layer == 0 else self.alibi(scores)
            y = y + torch.matmul(attention, v).transpose(1, 2).flatten(2)
        return self.out(y)


def train(
    model: nn.Module, x: Tensor, targets: Tensor, steps: int = 20, rate: float = 0.02
) -> dict[str, Any]:
    """Gradient descent, as in train_scripted.cpp: the loss of each step, and the gradients of the first."""
    losses, gradients = [], []
    for _ in range(steps):
        loss = (model(x) - targets).square().mean()
        loss.backward()
        losses.append(loss.detach())
        gradients = gradients or [p.grad.clone() for p in model.parameters()]
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(parameter.grad * rate)
                parameter.grad = None
    return {"rate": rate, "losses": losses, "gradients": gradients}


def save(
    path: Path, model: nn.Module, example: tuple, inputs: tuple[Tensor, ...], dynamic_shapes: dict[str, Any]
) -> None:
    """Saves the model, exported with the example, and what Python computes for inputs of another size."""
    with torch.no_grad():
        outputs = model(*inputs)
    if not isinstance(outputs, dict):
        outputs = {"output": outputs}
    tensors = {"inputs": list(inputs), "names": list(outputs), "outputs": list(outputs.values())}
    if path.suffix == ".pt2":
        with torch.no_grad():
            program = torch.export.export(model, example, dynamic_shapes=dynamic_shapes)
            torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    else:
        torch.jit.script(model).save(path)
        targets = torch.randn_like(outputs["output"])
        tensors |= {"targets": targets} | train(model, *inputs, targets)
    torch.save(tensors, path.with_name(f"{path.name}.tensors"))
    print(f"{path.name}: {len(outputs)} outputs")


def main(folder: str, *names: str) -> None:
    torch.set_num_threads(1)  # as in the programs: the bits of torch's matrix products depend on it
    for name in names or ("ops.pt2", "encoder.pt2", "encoder.pt"):
        torch.manual_seed(0)
        if name == "ops.pt2":
            rows, square = {0: BATCH, 1: LENGTH}, {0: BATCH, 2: LENGTH, 3: LENGTH}
            shapes = {"x": rows, "scores": square, "window_scores": {0: BATCH}, "times": {0: BATCH}}
            shapes |= {"index": rows, "seed": None}
            save(Path(folder, name), EveryOp().eval(), every_op_inputs(3, 6), every_op_inputs(5, 9), shapes)
        else:
            example, inputs = (torch.randn(2, 8, DIM),), (torch.randn(4, 16, DIM),)
            save(Path(folder, name), Encoder().eval(), example, inputs, {"x": {0: BATCH, 1: LENGTH}})


if __name__ == "__main__":
    main(*sys.argv[1:])
