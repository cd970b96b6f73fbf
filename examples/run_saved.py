"""Runs saved models without the code that defined them, and compares: run_saved.py [MODEL TENSORS]..."""

import sys
from pathlib import Path

import torch

import posenc_ext  # noqa: F401  (loads the library that registers the ops)

status = 0
for model, tensors in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
    saved = torch.load(tensors)
    with torch.no_grad():
        logits = torch.jit.load(model)(saved["images"])
    if torch.equal(logits, saved["logits"]):
        verdict = "the same, bit for bit"
    else:
        verdict = f"differ by {(logits - saved['logits']).abs().max():.1e}"
        status = 1
    print(f"  {Path(model).name}: outputs for {len(logits)} images: {verdict}")
sys.exit(status)
