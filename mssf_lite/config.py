"""Configuration: every number a run depends on, in one frozen object, with its source in brackets.

``Settings`` is what every detector's configuration holds; ``Config`` is MSSF's, the peers have their own.

``[paper]`` marks what MSSF's public abstract says, ``[ours]`` a choice of this project (the paper's text is
not public); where a peer's published value is followed, the peer is named.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, Self


@dataclass(frozen=True)
class Settings:
    """What every detector needs to know.

    Build one with :meth:`profile`; change fields with keywords. Unknown names raise ``TypeError``, values out
    of range raise ``ValueError`` that names the value.
    """

    profile_name: str = "full"  # which base the values came from; goes into the run record

    # the image and the frozen network
    image_size: tuple[int, int] = (256, 256)  # (height, width) the chapters resize to [ours]
    backbone: str = "tf_efficientnet_lite0"  # frozen; real ImageNet weights from the package index [ours]
    weights: str | None = None  # path of a state dict, "random", or None: see features.load_backbone
    stages: tuple[str, ...] = ("blocks.2", "blocks.3", "blocks.4", "blocks.5", "blocks.6")  # [ours]

    # training
    epochs: int = 4  # [ours]
    batch: int = 16  # images
    learning_rate: float = 1e-3  # AdamW [ours]
    weight_decay: float = 1e-2  # [ours]
    clip: float = 1.0  # gradient norm [ours]

    seed: int = 0
    recipe: int = 1  # not to be set by hand; raised when the same settings give other numbers: records
    # and checkpoints of another are out of date

    PROFILES: ClassVar[dict[str, dict[str, Any]]] = {"full": {}}

    def checks(self) -> dict[str, bool]:
        """Name of a field -> whether its value can work."""
        good = {name: getattr(self, name) > 0 for name in ("batch", "learning_rate", "clip")}
        good |= {name: getattr(self, name) >= 0 for name in ("epochs", "weight_decay")}
        good["stages"] = len(self.stages) > 0
        good["image_size"] = len(self.image_size) == 2 and min(self.image_size) >= 32
        return good

    def __post_init__(self) -> None:
        """Refuse values that cannot work, before anything is computed."""
        for name, good in self.checks().items():
            if not good:
                where = f"{type(self).__name__}.{name}"
                raise ValueError(f"{where} cannot be {getattr(self, name)!r}: see the field's comment")

    @classmethod
    def profile(cls, name: str, **changes: Any) -> Self:
        """A named base, with changes.

        Args:
            name: ``check`` (seconds, for testing chapters), ``fast`` (a minute on two cores, the default of
                the printed book) or ``full`` (the reported numbers). MSSF also has ``fine`` (finer maps)
                and ``light`` (finer maps sooner, without the deepest stages).
            changes: fields to replace; an unknown field raises ``TypeError``.
        """
        if name not in cls.PROFILES:
            raise ValueError(f"unknown profile {name!r}: choose one of {', '.join(cls.PROFILES)}")
        return replace(cls(profile_name=name, **cls.PROFILES[name]), **changes)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`; JSON's lists become tuples again."""
        values = {"recipe": 1} | values  # the first records did not name it
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Config(Settings):
    """All settings of an MSSF run."""

    # multi-level feature fusion (MLFF)
    zooms: tuple[float, ...] = (1.0, 0.5, 0.25)  # the sizes at which the image is seen: the scales [ours]
    stride: int = 16  # of the finest grid of fused features, in pixels of the zoomed image [ours]
    grids: int = 1  # of each size of the image, each twice as coarse as the one before: see fused [ours]
    neighbourhood: int = 3  # side of the mean over neighbouring locations; 1: none [PatchCore: 3]
    ridge: float = 1e-2  # added to the eigenvalues of the correlation matrix before whitening [ours]
    components: int | None = None  # leading components kept by the whitening; None keeps all [ours]

    # Siamese flow
    siamese: bool = False  # whether one flow serves all scales; else each has its own. A normal image and its
    # twin share theirs in any case [paper: Siamese; ours: of what]
    flow_components: int | None = None  # leading components that the flow bends, the others keep their
    # Gaussian; None bends all [ours]
    blocks: int = 4  # coupling blocks; 0 leaves the Gaussian of the whitened features [ours]
    hidden: int = 128  # width of the coupling subnet's bottleneck [ours]
    kernel: int = 1  # of the coupling subnet; 1 looks at one location only, MSFlow has 3 [ours]
    clamp: float = 1.9  # bound on |log scale| of a coupling [MSFlow]

    # mixed anomalies synthesis (MAS)
    kinds: tuple[str, ...] = ("texture", "paste", "shuffle", "warp", "stain", "gloss", "smear", "noise")

    # loss: negative log-likelihood plus the changeable hindering loss [paper: the sum; ours: its form]
    hindering: Literal["changeable", "fixed", "none"] = "changeable"
    hindering_weight: float = 2.0  # lambda at the end of its ramp [ours]
    boundary_quantile: float = 0.05  # lower tail of the normal log-likelihoods [BGAD]
    margin: float = 1.0  # of the boundary below that quantile, nats per dimension [BGAD]
    ramp: float = 0.3  # share of training after which lambda is full; the first third of it is normals only

    # score
    score: Literal["both", "nll", "z2"] = "both"  # see MSSF.raw_map [ours]
    top_share: float = 0.03  # the image score is the mean of this share of each scale [MSFlow]
    combine: Literal["multiply", "add"] = "multiply"  # likelihoods of the scales, see scoring.merged [ours]
    rings: int = 0  # of locations at the border that are judged in units of their own [ours]

    recipe: int = 3

    PROFILES: ClassVar[dict[str, dict[str, Any]]] = {
        "check": {
            "image_size": (128, 128),
            "stages": ("blocks.2", "blocks.3", "blocks.4"),
            "epochs": 1,
            "hidden": 32,
        },
        "fast": {"blocks": 2, "learning_rate": 2e-3},  # few images: less to learn, in larger steps
        "full": {},
        # finer maps: one size of the image on two grids, with features as they are, and flows that see their
        # neighbours. Found on drawn textures of seeds 7 and 8; book/steps.yml has the steps [ours]
        "fine": {"zooms": (1.0,), "grids": 2, "neighbourhood": 1, "kernel": 3},
        # finer maps sooner: one grid, a shallow stage and the deepest that is no coarser, and few blocks, for
        # every operation counts where a single image waits. Found on drawn textures of seeds that no other
        # table uses; book/light.yml has the choice [ours]
        "light": {
            "zooms": (1.0,),
            "neighbourhood": 1,
            "kernel": 3,
            "stages": ("blocks.1", "blocks.4"),
            "blocks": 2,
            "hidden": 192,
        },
    }

    def checks(self) -> dict[str, bool]:
        """Name of a field -> whether its value can work."""
        good = super().checks() | {name: getattr(self, name) > 0 for name in ("stride", "hidden", "clamp")}
        good |= {name: getattr(self, name) >= 0 for name in ("blocks", "ridge", "rings")}
        good |= {name: 0 < getattr(self, name) <= 1 for name in ("top_share", "ramp")}
        good["boundary_quantile"] = 0 < self.boundary_quantile < 1
        good["zooms"] = len(self.zooms) > 0 and all(zoom > 0 for zoom in self.zooms)
        good |= {name: getattr(self, name) % 2 == 1 for name in ("kernel", "neighbourhood")}
        coarsest = self.stride * 2 ** (max(1, self.grids) - 1)
        good["image_size"] = len(self.image_size) == 2 and min(self.image_size) >= 2 * coarsest
        good["hindering"] = self.hindering in ("changeable", "fixed", "none")
        good["score"] = self.score in ("both", "nll", "z2")
        good["combine"] = self.combine in ("multiply", "add")
        good |= {
            name: getattr(self, name) is None or getattr(self, name) > 0
            for name in ("components", "flow_components")
        }
        good["kinds"] = len(self.kinds) > 0
        good["grids"] = self.grids > 0
        good["siamese"] = not self.siamese or self.grids == 1  # its grids have different channels
        return good
