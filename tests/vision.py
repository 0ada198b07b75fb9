"""Makes torchvision importable where its compiled operators are missing.

A torchvision built for CUDA cannot load its operators beside a CPU build of torch, and its import
then stops at the first operator it describes without having declared it. Declaring those is enough
for the classification models, since none calls one. Import this module before torchvision or timm.
"""

import torch

# The operators that torchvision/_meta_registrations.py describes whether or not they were loaded.
UNDECLARED = ("nms", "qnms")

try:
    import torchvision
except RuntimeError as error:
    if "torchvision::nms does not exist" not in str(error):
        raise
    LIBRARY = torch.library.Library("torchvision", "DEF")  # must outlive what it declares
    for name in UNDECLARED:
        LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

__all__ = ["torchvision"]
