"""Checkpoints as published with the paper, read without running anything in them. Knows files and names; no torch.

reader         which variant a file holds, and its tensors by our names
shapes, config, settings    names and shapes of the variants; their configuration; what the YAML beside a file says
pickle_reader, pickle_machine, torch_zip    a file of `torch.save` as plain containers and lazily read tensors
"""
