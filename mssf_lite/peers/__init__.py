"""The detectors that MSSF is compared with, built afresh from what is public of their papers.

They keep the contract of :mod:`mssf_lite.detector`, so that every chapter and benchmark treats all alike.
"""
