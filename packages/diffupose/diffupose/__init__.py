"""DiffuPose: many 3D poses from one set of 2D keypoints, with a graph-convolution denoiser.

A modulated graph convolution network denoises 3D joints given their 2D keypoints; samples from different noise are
hypotheses of the pose.

Not in this release: the package holds this description and nothing else.

References:
    J. Choi, D. Shim, H. J. Kim: DiffuPose: Monocular 3D Human Pose Estimation via Denoising
    Diffusion Probabilistic Model. IROS 2023.
"""
