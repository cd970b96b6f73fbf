"""The head of a Vision Transformer: class token in front of the patches, position embedding added."""

from functools import partial

import torch
from case import Case, Contenders, Rotating, contenders, into

import posenc_ext

TOKENS, DIM = 196, 768
FORMS = {
    "eager": "torch.cat([cls.expand(B, -1, -1), x], 1) + pos_embed",
    "best eager": "forward: both sums into slices of one result; with a gradient: cat of both sums",
}


def vit(direction: str, dtype: torch.dtype, batch: int) -> Contenders:
    shape = (batch, TOKENS + 1, DIM)
    xs = Rotating(lambda: torch.randn(batch, TOKENS, DIM, dtype=dtype))
    pos_embed, cls = torch.randn(1, TOKENS + 1, DIM, dtype=dtype), torch.randn(1, 1, DIM, dtype=dtype)

    def eager(x, pos_embed, cls):
        return torch.cat([cls.expand(batch, -1, -1), x], 1) + pos_embed

    def slices(x, pos_embed, cls):
        out = x.new_empty(shape)
        torch.add(x, pos_embed[:, 1:], out=out[:, 1:])
        torch.add(cls.expand(batch, -1, -1), pos_embed[:, :1], out=out[:, :1])
        return out

    def sums(x, pos_embed, cls):
        return torch.cat([(cls + pos_embed[:, :1]).expand(batch, -1, -1), x + pos_embed[:, 1:]], 1)

    forms = {
        "eager": eager,
        "best eager": slices if direction == "forward" else sums,
        "posenc_ext": lambda x, pos_embed, cls: posenc_ext.add_position_embedding(x, pos_embed, [cls]),
    }
    arguments = [xs, pos_embed, cls]
    result = contenders(direction, forms, arguments, lambda: torch.rand(shape).to(dtype))
    if direction == "forward":
        timm = timm_vit(pos_embed, cls)
        if timm is not None:
            result["timm"] = torch.no_grad()(lambda: timm(xs.next()))
        call = lambda op, x, pos_embed, cls, out: op(x, pos_embed, [cls], out=out)  # noqa: E731
        result |= into("add_position_embedding", call, arguments, shape, dtype)
    return result


def timm_vit(pos_embed: torch.Tensor, cls: torch.Tensor):
    """The position code of timm's VisionTransformer, where timm is installed."""
    try:
        from timm.models.vision_transformer import VisionTransformer
    except ImportError:
        return None
    model = VisionTransformer(embed_dim=DIM, depth=0, num_heads=12, num_classes=0).to(pos_embed.dtype)
    with torch.no_grad():
        model.pos_embed.copy_(pos_embed)
        model.cls_token.copy_(cls)
    return model._pos_embed


def cases() -> list[Case]:
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        for batch in (1, 8, 64):
            moved = batch * (TOKENS + 1) * DIM * dtype.itemsize
            for direction in ("forward", "backward", "both"):
                if batch == 8 and (direction == "both" or dtype != torch.float32):
                    continue
                found.append(
                    Case(
                        title=f"ViT add, B={batch}, {TOKENS}x{DIM}",
                        direction=direction,
                        dtype=dtype,
                        family=f"ViT add, {direction}",
                        build=partial(vit, direction, batch=batch),
                        reads=moved,
                        writes=0 if direction == "backward" else moved,
                        limit={"forward": "copy", "backward": "read"}.get(direction),
                        # float32: a rounding, or sums over the batch; bfloat16: one or two roundings
                        tolerance=1e-5 if direction != "forward" or dtype == torch.float32 else 2**-7,
                        check_dtype=None if direction == "forward" else torch.float32,
                        quick=batch == 64 and direction != "both",
                        forms=FORMS,
                    )
                )
    return found
