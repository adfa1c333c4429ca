"""Multi-level feature fusion: alignment by hand, whitening against NumPy."""

import numpy as np
import pytest
import torch

from mssf_lite.fusion import Whitening, fuse


def features(seed=0, n=40, c=8):
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(c, c)) * np.logspace(0, -2, c)  # from strong to weak directions
    x = rng.normal(size=(n, 4, 5, c)) @ mix.T + rng.normal(size=c) * 5
    return torch.from_numpy(x).permute(0, 3, 1, 2).float()


def fitted(x, ridge=0.0):
    whitening = Whitening(x.shape[1], ridge)
    for part in x.split(7):
        whitening.update(part)
    whitening.solve()
    return whitening


def test_whitened_features_have_zero_mean_and_identity_covariance():
    x = features()
    z = fitted(x)(x).permute(0, 2, 3, 1).reshape(-1, 8).numpy()
    np.testing.assert_allclose(z.mean(0), 0, atol=2e-3)
    np.testing.assert_allclose(np.cov(z.T, bias=True), np.eye(8), atol=5e-3)


def test_squared_norm_is_the_mahalanobis_distance_of_numpy():
    x = features()
    rows = x.permute(0, 2, 3, 1).reshape(-1, 8).double().numpy()
    centred = rows - rows.mean(0)
    expected = np.einsum("ni,ij,nj->n", centred, np.linalg.inv(np.cov(rows.T, bias=True)), centred)
    actual = fitted(x)(x).square().sum(1).flatten().numpy()
    np.testing.assert_allclose(actual, expected, rtol=2e-2)


def test_eigenvalues_are_those_of_the_correlation_matrix_leading_first():
    x = features()
    rows = x.permute(0, 2, 3, 1).reshape(-1, 8).double().numpy()
    expected = np.linalg.eigvalsh(np.corrcoef(rows.T))[::-1]
    np.testing.assert_allclose(fitted(x).eigenvalues.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_batches_and_one_pass_give_the_same_map():
    x = features()
    whole = Whitening(8, 0.0)
    whole.update(x)
    whole.solve()
    torch.testing.assert_close(whole.matrix, fitted(x).matrix, rtol=1e-3, atol=1e-3)


def test_ridge_holds_unseen_directions_finite():
    x = features(n=1)[:, :, :1, :3]  # three locations, eight channels
    z = fitted(x, ridge=0.01)(features(1))
    assert z.isfinite().all()


def test_solving_without_data_says_what_is_missing():
    with pytest.raises(RuntimeError, match="before any update"):
        Whitening(4).solve()


def test_shallow_maps_are_averaged_and_deep_maps_interpolated_onto_the_grid():
    shallow = torch.arange(16.0).view(1, 1, 4, 4)
    deep = torch.full((1, 1, 1, 1), 7.0)
    # means of the 2x2 cells are 2.5, 4.5, 10.5, 12.5; the 3x3 mean of a 2x2 grid is the mean of all four
    expected = torch.stack([torch.full((2, 2), 7.5), torch.full((2, 2), 7.0)])[None]
    torch.testing.assert_close(fuse([shallow, deep], (2, 2)), expected)


def test_the_mean_at_the_border_does_not_count_padding():
    assert torch.equal(fuse([torch.ones(1, 2, 5, 6)], (5, 6)), torch.ones(1, 2, 5, 6))


def test_leading_components_are_the_first_rows_of_all_and_more_than_there_are_is_refused():
    x = features()
    some = Whitening(8, 0.0, components=3)
    for part in x.split(7):
        some.update(part)
    some.solve()
    torch.testing.assert_close(some(x), fitted(x)(x)[:, :3])
    with pytest.raises(ValueError, match="9 components of 8 channels"):
        Whitening(8, components=9)
