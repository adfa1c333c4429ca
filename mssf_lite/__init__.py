"""mssf_lite: one small flow model that finds defects on many textures, and the book that explains it.

The public interface::

    from mssf_lite import MSSF, Config, load
    from mssf_lite.data import open_dataset
"""

from .baselines import NearestNeighbour, gaussian, gaussian_of
from .config import Config
from .detector import Detector, Progress, load
from .mssf import MSSF
from .scoring import Prediction

__all__ = [
    "MSSF",
    "Config",
    "Detector",
    "NearestNeighbour",
    "Prediction",
    "Progress",
    "gaussian",
    "gaussian_of",
    "load",
]
__version__ = "0.1.0"
