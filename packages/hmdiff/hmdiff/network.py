"""HMDiff's diffusion model g over mesh vertices, and the MLP that follows it (Sec. 4.3)."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hmdiff.pose_distribution import PoseDistribution
from posecore.diffusion.embedding import sinusoidal_embedding
from posecore.geometry.precision import autocast_off, full_precision

Conditioning = Literal["image", "pose", "both"]
"""What the vertices attend to: f_I, the pose heatmaps, or both (Table 4)."""
ImageFeature = Literal["pooled", "projected"]
"""How f_c becomes f_I: averages of neighbouring channels, or a linear layer that is trained with g."""
TOKEN_DIM, ID_DIM, STEP_DIM = 128, 64, 61


@dataclass(frozen=True)
class Prepared:
    """What g needs of the images, computed once for all steps and samples.

    Rows of g are ordered by image: the first ``num_samples`` belong to the first image.

    Attributes:
        keys_values: Keys and values of the image's tokens for each layer's cross-attention.
        num_samples: Rows of each image.
    """

    keys_values: tuple[Float[Tensor, "2 images heads tokens head_dim"], ...]
    num_samples: int = 1

    @property
    def num_images(self) -> int:
        """How many images there are."""
        return self.keys_values[0].shape[1]

    def repeat(self, num_samples: int) -> "Prepared":
        """The same images with this many rows each; nothing is copied."""
        return replace(self, num_samples=num_samples)

    def take(self, images: slice) -> "Prepared":
        """Some of the images."""
        return replace(self, keys_values=tuple(both[:, images] for both in self.keys_values))


class MeshDenoiser(nn.Module):
    """g(h_k, k, f_I): V tokens, vertex self-attention, vertex-image cross-attention, a linear layer.

    The token of a vertex is its id's embedding (64), the step's (61) and its coordinates (3).

    Deviation: the paper names the layers only. Here they are pre-normalised with residual connections, and a layer has
    the usual feed-forward network behind its two attentions; ``feed_forward: 0`` leaves it out.

    Args:
        num_vertices: V.
        feature_dim: Channels of f_c.
        num_joints: J, of the heatmaps.
        heatmap_size: Their side.
        conditioning: What the vertices attend to.
        image_feature: How f_c becomes f_I.
        num_layers: Pairs of attentions; the paper's g has one, Baseline B stacks them.
        num_heads: Of the attentions.
        feed_forward: Width of the feed-forward network by the token's.
        adjacency: Which vertices see which in self-attention; all see all where None.

    Raises:
        ValueError: An option is unknown or out of range, or f_c cannot be averaged to 128 channels.
    """

    def __init__(
        self,
        num_vertices: int,
        feature_dim: int,
        num_joints: int,
        heatmap_size: int = 56,
        conditioning: Conditioning = "image",
        image_feature: ImageFeature = "pooled",
        num_layers: int = 1,
        num_heads: int = 4,
        feed_forward: int = 4,
        adjacency: Bool[Tensor, "vertices vertices"] | None = None,
    ) -> None:
        super().__init__()
        if conditioning not in get_args(Conditioning) or image_feature not in get_args(ImageFeature):
            raise ValueError(
                f"conditioning must be one of {get_args(Conditioning)} and image_feature one of "
                f"{get_args(ImageFeature)}, got {conditioning!r} and {image_feature!r}"
            )
        if image_feature == "pooled" and conditioning != "pose" and feature_dim % TOKEN_DIM:
            raise ValueError(
                f"image_feature: {feature_dim} channels of the backbone cannot be averaged to {TOKEN_DIM}; take "
                "'projected'"
            )
        if num_layers < 1 or num_heads < 1 or TOKEN_DIM % num_heads or feed_forward < 0:
            raise ValueError(
                f"num_layers must be at least 1, num_heads divide {TOKEN_DIM} and feed_forward not be negative, got "
                f"{num_layers}, {num_heads} and {feed_forward}"
            )
        self.num_vertices = num_vertices
        self.conditioning = conditioning
        # A linear layer on a one-hot id is a table.
        self.id_embedding = nn.Embedding(num_vertices, ID_DIM)
        self.project = None
        if image_feature == "projected" and conditioning != "pose":
            self.project = nn.Linear(feature_dim, TOKEN_DIM)
        self.pose_feature = PoseFeature(num_joints, heatmap_size) if conditioning != "image" else None
        self.image_norm = nn.LayerNorm(TOKEN_DIM)
        self.layers = nn.ModuleList(Layer(num_heads, feed_forward) for _ in range(num_layers))
        self.norm = nn.LayerNorm(TOKEN_DIM)
        self.out = nn.Linear(TOKEN_DIM, 3)
        self.adjacency: Tensor | None
        self.register_buffer("adjacency", adjacency, persistent=False)

    def prepare(self, f_c: Float[Tensor, "images dim h w"], prior: PoseDistribution | None) -> Prepared:
        """The image's side of all cross-attentions.

        Args:
            f_c: The backbone's features.
            prior: The heatmaps, where the vertices attend to them.

        Raises:
            ValueError: The heatmaps are needed and not given.
        """
        parts = []
        if self.conditioning != "pose":
            cells = f_c.flatten(2)
            if self.project is None:
                f_i = cells.unflatten(1, (TOKEN_DIM, -1)).mean(dim=2).transpose(1, 2)
            else:
                f_i = self.project(cells.transpose(1, 2))
            parts.append(f_i)
        if self.pose_feature is not None:
            if prior is None:
                raise ValueError(f"prior: conditioning {self.conditioning!r} needs the heatmaps")
            parts.append(self.pose_feature(prior))
        tokens = self.image_norm(torch.cat(parts, dim=1))
        return Prepared(tuple(layer.cross_attention.keys_values(tokens) for layer in self.layers))  # type: ignore[operator,union-attr]

    def forward(
        self, h: Float[Tensor, "rows vertices 3"], k: Int[Tensor, "*rows"], prepared: Prepared
    ) -> Float[Tensor, "rows vertices 3"]:
        """What is predicted of each vertex: its noise, or what the schedule's conversions make the noise of.

        Args:
            h: Noisy meshes h_k.
            k: Steps, 0..K-1; one of all rows, or one of each.
            prepared: Their images; as many rows as ``h`` has.
        """
        step = sinusoidal_embedding(k, STEP_DIM).to(h.dtype).expand(h.shape[0], STEP_DIM)
        tokens = torch.cat(
            (
                self.id_embedding.weight.to(h.dtype).expand(h.shape[0], -1, -1),
                step[:, None].expand(-1, self.num_vertices, -1),
                h,
            ),
            dim=-1,
        )
        for layer, keys_values in zip(self.layers, prepared.keys_values, strict=True):
            tokens = layer(tokens, keys_values, self.adjacency)
        with autocast_off():  # What is predicted may be the mesh itself, in metres.
            out: Tensor = self.out(self.norm(tokens.to(self.out.weight.dtype)))
        return out


class Layer(nn.Module):
    """Vertex self-attention, vertex-image cross-attention, feed-forward."""

    def __init__(self, num_heads: int, feed_forward: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(TOKEN_DIM) for _ in range(3 if feed_forward else 2))
        self.queries_keys_values = nn.Linear(TOKEN_DIM, 3 * TOKEN_DIM)
        self.self_out = nn.Linear(TOKEN_DIM, TOKEN_DIM)
        self.cross_attention = CrossAttention(num_heads)
        self.num_heads = num_heads
        self.feed_forward = None
        if feed_forward:
            self.feed_forward = nn.Sequential(
                nn.Linear(TOKEN_DIM, feed_forward * TOKEN_DIM),
                nn.GELU(),
                nn.Linear(feed_forward * TOKEN_DIM, TOKEN_DIM),
            )

    def forward(
        self,
        tokens: Float[Tensor, "rows vertices dim"],
        keys_values: Float[Tensor, "2 images heads tokens head_dim"],
        adjacency: Bool[Tensor, "vertices vertices"] | None,
    ) -> Float[Tensor, "rows vertices dim"]:
        """The tokens one layer later."""
        heads = self.queries_keys_values(self.norms[0](tokens)).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=adjacency)
        tokens = tokens + self.self_out(seen.transpose(1, 2).flatten(2))
        tokens = tokens + self.cross_attention(self.norms[1](tokens), keys_values)
        if self.feed_forward is not None:
            tokens = tokens + self.feed_forward(self.norms[2](tokens))
        return tokens


class CrossAttention(nn.Module):
    """From vertices to the tokens of their image, whose keys and values all samples and steps share."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.query = nn.Linear(TOKEN_DIM, TOKEN_DIM)
        self.key_value = nn.Linear(TOKEN_DIM, 2 * TOKEN_DIM)
        self.out = nn.Linear(TOKEN_DIM, TOKEN_DIM)
        self.num_heads = num_heads

    def keys_values(
        self, tokens: Float[Tensor, "images tokens dim"]
    ) -> Float[Tensor, "2 images heads tokens head_dim"]:
        """Keys and values of the images."""
        both: Tensor = self.key_value(tokens).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return both.contiguous()

    def forward(
        self, tokens: Float[Tensor, "rows vertices dim"], keys_values: Float[Tensor, "2 images heads tokens head_dim"]
    ) -> Float[Tensor, "rows vertices dim"]:
        """What the vertices read of their image."""
        images = keys_values.shape[1]
        query = self.query(tokens).unflatten(-1, (self.num_heads, -1))
        # The samples of an image stand behind one another: its keys are not repeated for each.
        query = query.reshape(images, -1, *query.shape[2:]).transpose(1, 2)
        seen = F.scaled_dot_product_attention(query, keys_values[0].to(query), keys_values[1].to(query))
        out: Tensor = self.out(seen.transpose(1, 2).reshape(tokens.shape))
        return out


class PoseFeature(nn.Module):
    """The pose heatmaps as a token for each joint, the input of Table 4's "pose feature" and "both features"."""

    def __init__(self, num_joints: int, heatmap_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * heatmap_size**2, TOKEN_DIM)
        self.joint_embedding = nn.Parameter(0.02 * torch.randn(num_joints, TOKEN_DIM))

    def forward(self, prior: PoseDistribution) -> Float[Tensor, "images joints dim"]:
        """Tokens of the joints."""
        xy, z = prior.xy.flatten(2).softmax(-1), prior.z.softmax(dim=2).flatten(2)
        # Probabilities of 3,136 cells are tiny numbers; square roots are not.
        tokens: Tensor = self.linear(torch.cat((xy, z), dim=-1).sqrt()) + self.joint_embedding
        return tokens


class FinalMLP(nn.Module):
    """From the centre of the samples to the final prediction h_m (Fig. 1); begins as the identity.

    Args:
        num_vertices: V.
        hidden_dim: Width; the paper gives none.
    """

    def __init__(self, num_vertices: int, hidden_dim: int = 1024) -> None:
        super().__init__()
        last = nn.Linear(hidden_dim, 3 * num_vertices)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.Linear(3 * num_vertices, hidden_dim), nn.GELU(), last)

    @full_precision
    def forward(self, centre: Float[Tensor, "images vertices 3"]) -> Float[Tensor, "images vertices 3"]:
        """The final coarse mesh, metres."""
        correction: Tensor = self.layers(centre.flatten(1)).view(centre.shape)
        return centre + correction
