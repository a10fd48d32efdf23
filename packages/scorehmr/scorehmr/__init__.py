"""ScoreHMR: refines a regressed SMPL pose with a diffusion prior, guided by 2D keypoints, other views or a video.

The regression is inverted into the diffusion model's latent by DDIM; guided sampling back follows the gradient of the
observations. One model serves every application without retraining.

References:
    A. Stathopoulos, L. Han, D. Metaxas: Score-Guided Diffusion for 3D Human Recovery. CVPR 2024.
"""
