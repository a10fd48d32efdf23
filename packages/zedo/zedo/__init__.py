"""ZeDO: zero-shot 3D human pose by optimisation in the loop with a diffusion prior over poses alone.

A score network is trained on 3D poses and nothing else. At inference an initial pose is turned towards the 2D
keypoints, then moved to their rays and denoised in turns, until both agree.

References:
    Z. Jiang, Z. Zhou, L. Li, W. Chai, C.-Y. Yang, J.-N. Hwang: Back to Optimization: Diffusion-based Zero-Shot 3D Human
    Pose Estimation. WACV 2024.
"""
