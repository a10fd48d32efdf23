"""Errors of 3D poses and meshes: plain functions, torchmetrics and named protocols.

``posecore.metrics.functional`` stays free of torchmetrics and is imported by its full name.
"""
