"""HMDiff: diffuses mesh vertices, aligned to a distribution of poses taken from heatmaps.

A denoiser over coarse mesh vertices and image features is steered, early in the reverse process, towards the pose
distribution of a heatmap network (Distribution Alignment Technique).

References:
    L. G. Foo, J. Gong, H. Rahmani, J. Liu: Distribution-Aligned Diffusion for Human Mesh Recovery. ICCV 2023.
"""
