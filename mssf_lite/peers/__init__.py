"""The detectors that MSSF is compared with, built afresh from what is public of their papers.

They keep the contract of :mod:`mssf_lite.detector`, so that every chapter and benchmark treats all alike.
"""

from .msflow import MSFlow, MSFlowConfig
from .stmae import STMAE, STMAEConfig
from .uniad import UniAD, UniADConfig

__all__ = ["STMAE", "MSFlow", "MSFlowConfig", "STMAEConfig", "UniAD", "UniADConfig"]
