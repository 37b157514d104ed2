"""The paper's sketch in five lines, with the names of this package: tokenize, encode regions, context, head, predict.

Gupta et al. (2024), figure 1. What `model(images)` does at once, step by step; `xt.predict` does the same window by
window over an image of any size.
"""

import torch

import napari_xt as xt
from napari_xt.model.tokens import to_regions

model = xt.load_model("canopy")
images = torch.randn(1, 3, 512, 768)  # (B, C, H, W), normalised

regions = to_regions(images, model.config.region_px, model.config.halo_px)  # (B, R, Q, C, P, P)
tokens, local = (x.reshape(*regions.shape[:3], *x.shape[1:]) for x in model.encode(regions.flatten(0, 2)))
context = model.contextualise(tokens)  # .regions (B, R, Q, L, D)
output = model.decode(local, context)  # logits: mask, boxes, scores
classes = output.mask.argmax(dim=1)  # (B, R S / s, Q S / s)

print(classes.shape, output.scores.softmax(-1)[0])
