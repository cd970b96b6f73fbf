"""Runs a saved model without the code that defined it, compares its outputs: run_saved.py MODEL TENSORS."""

import sys

import torch

import posenc_ext  # noqa: F401  (loads the library that registers the ops)

model_file, tensors_file = sys.argv[1:]
tensors = torch.load(tensors_file)
with torch.no_grad():
    logits = torch.jit.load(model_file)(tensors["images"])
same = torch.equal(logits, tensors["logits"])
print("the same, bit for bit" if same else f"differ by {(logits - tensors['logits']).abs().max():.1e}")
sys.exit(0 if same else 1)
