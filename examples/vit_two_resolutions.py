"""A vision transformer with class and distillation tokens, at its training resolution and at others."""

import torch
from torch import Tensor, nn

from posenc_ext.nn import VisionPositionEmbedding

PATCH, DIM = 16, 96


class VisionTransformer(nn.Module):
    """Patches, positions, two blocks, and one head each for the class and the distillation token."""

    def __init__(self, image_size: int, classes: int = 10) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, DIM, PATCH, PATCH)
        self.positions = VisionPositionEmbedding(image_size // PATCH, DIM, dist_token=True, dropout=0.1)
        block = nn.TransformerEncoderLayer(DIM, 4, 2 * DIM, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Linear(DIM, classes)
        self.head_dist = nn.Linear(DIM, classes)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.blocks(self.positions(self.patches(images)))  # the feature map is read in place
        return (self.head(tokens[:, 0]) + self.head_dist(tokens[:, 1])) / 2


def plain_positions(module: VisionPositionEmbedding, patches: Tensor) -> Tensor:
    """The same computation as commonly written, at the resolution of the module."""
    batch = patches.shape[0]
    tokens = [module.cls_token.expand(batch, -1, -1), module.dist_token.expand(batch, -1, -1)]
    x = torch.cat([*tokens, patches.flatten(2).transpose(1, 2)], dim=1)
    return module.dropout(x + module.pos_embed)


def main() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(224).eval()
    images = {size: torch.randn(2, 3, *size) for size in ((224, 224), (320, 256))}
    for size, batch in images.items():
        tokens = model.positions(model.patches(batch))
        print(
            f"images of {size[0]} x {size[1]}: {tokens.shape[1]} tokens, logits {tuple(model(batch).shape)}"
        )
    patches = model.patches(images[224, 224])
    same = torch.equal(model.positions(patches), plain_positions(model.positions, patches))
    print(f"at 224 x 224, cat + add as usually written gives the same bits: {same}")

    larger = VisionTransformer(320).eval()
    larger.load_state_dict(model.state_dict())
    print(f"its checkpoint in a model for 320 x 320: pos_embed {tuple(larger.positions.pos_embed.shape)}")
    batch = torch.randn(2, 3, 320, 320)
    print(f"resampled once or in each call, the same logits: {torch.equal(larger(batch), model(batch))}")

    model.train()(images[320, 256]).sum().backward()
    names = [name for name, p in model.positions.named_parameters() if p.grad.abs().sum() > 0]
    print(f"trained at 320 x 256, gradients for {', '.join(names)}")


if __name__ == "__main__":
    main()
