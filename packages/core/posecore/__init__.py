"""Shared core of humandiff: geometry, body model, diffusion mathematics, metrics, data. It knows no method."""
