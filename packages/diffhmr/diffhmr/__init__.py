"""Diff-HMR: a DDPM over SMPL pose in 6D, conditioned on an image; many plausible meshes of one photograph.

A denoiser over the 24 joints' rotations is conditioned on an image feature; sampling it from different noise gives
different bodies that all explain the picture, where a regressor gives one.

References:
    H. Cho, J. Kim: Generative Approach for Probabilistic Human Mesh Recovery using Diffusion
    Models. ICCV Workshops 2023.
"""
