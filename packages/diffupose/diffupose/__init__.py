"""DiffuPose: many 3D poses from one set of 2D keypoints, by conditional diffusion with a graph network.

A modulated graph convolution network is trained to find the noise in 3D joints, given their 2D keypoints. Denoising
from different noise gives different poses for the same keypoints; their mean is the answer, their spread the doubt.

References:
    J. Choi, D. Shim, H. J. Kim: DiffuPose: Monocular 3D Human Pose Estimation via Denoising Diffusion Probabilistic
    Model. IROS 2023.
"""
