"""Packed convolutions give what plain ones give, wherever they are asked."""

import copy

import pytest
import torch
from torch import nn

from mssf_lite.features import load_backbone, timm
from mssf_lite.packing import HALF, KEPT, PackedConv, fold_batchnorm, unpacked


def packed_in(net):
    return [m for m in net.modules() if isinstance(m, PackedConv)]


@pytest.fixture(scope="module")
def packed():
    return fold_batchnorm(load_backbone()).to(memory_format=torch.channels_last)


def test_every_convolution_of_the_default_network_is_packed(packed):
    convolutions = [m for m in packed.modules() if isinstance(m, nn.Conv2d)]
    assert len(packed_in(packed)) == len(convolutions) == 49


@pytest.mark.parametrize("name", ["tf_efficientnet_b0", "resnet18", "mobilenetv3_small_050", "regnetx_002"])
@pytest.mark.parametrize("size", [(64, 96), (75, 53)])
def test_a_packed_network_answers_like_the_plain_one(name, size):
    torch.manual_seed(0)
    plain = timm.create_model(name).eval().requires_grad_(False)
    for norm in plain.modules():  # untrained statistics would hide a norm that is lost
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 2)
            norm.bias.normal_(0, 0.1)
    quick = fold_batchnorm(copy.deepcopy(plain)).to(memory_format=torch.channels_last)
    assert packed_in(quick)
    images = torch.rand(2, 3, *size)
    for _ in range(2):  # the second call uses the weights that the first has laid out
        expected, found = plain.forward_features(images), quick.forward_features(images)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_weights_laid_out_for_one_size_serve_any_other(packed):
    plain = load_backbone()
    with torch.no_grad():
        packed.forward_features(torch.rand(1, 3, 32, 32))
        for shape in [(3, 3, 256, 64), (1, 3, 61, 90), (2, 3, 128, 128)]:
            images = torch.rand(shape)
            found = packed.forward_features(images)
            torch.testing.assert_close(found, plain.forward_features(images), atol=2e-3, rtol=1e-3)


def test_weights_are_kept_for_a_few_shapes_only(packed):
    layer = copy.deepcopy(packed_in(packed)[0])
    for side in range(16, 16 + 2 * (KEPT + 3), 2):
        layer(torch.rand(2, 3, side, side))
    assert len(layer._packed) == KEPT
    shapes = [tuple(shape) for shape, *_ in layer._packed]
    assert (2, 3, side, side) in shapes and (2, 3, 16, 16) not in shapes


def test_weights_are_laid_out_anew_for_another_number_of_threads(packed):
    layer, x, before = copy.deepcopy(packed_in(packed)[0]), torch.rand(1, 3, 32, 32), torch.get_num_threads()
    try:
        answers = []
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            answers.append(layer(x))
    finally:
        torch.set_num_threads(before)
    assert [threads for *_, threads in layer._packed] == [1, 2]
    torch.testing.assert_close(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])


def test_where_onednn_has_no_such_operator_the_plain_form_answers(packed, monkeypatch):
    layer, x = packed_in(packed)[0], torch.rand(1, 3, 16, 16)
    expected = layer(x)
    monkeypatch.setattr("mssf_lite.packing.SUPPORTED", False)
    assert not layer.packs(x, torch.float32)
    torch.testing.assert_close(layer(x), expected)


def test_where_a_gradient_is_wanted_it_is_that_of_the_plain_form(packed):
    layer = packed_in(packed)[0]
    x = torch.rand(1, 3, 16, 16, requires_grad=True)
    layer(x).square().sum().backward()
    again = x.detach().requires_grad_()
    layer.act(layer.conv(again)).square().sum().backward()
    assert x.grad.abs().sum() > 0
    torch.testing.assert_close(x.grad, again.grad)


def test_precisions_that_it_does_not_know_take_the_plain_form(packed):
    layer, x = copy.deepcopy(packed_in(packed)[0]), torch.rand(1, 3, 16, 16)
    assert layer.packs(x, torch.float32)
    for dtype in (torch.float64, torch.float16):
        assert not layer.packs(x.to(dtype), dtype)
    assert layer.double()(x.double()).dtype == torch.float64


def test_inside_an_autocast_a_packed_network_answers_in_bfloat16_like_the_plain_one(packed):
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    exact = packed.forward_features(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = packed.forward_features(images)
        with unpacked():
            plain = packed.forward_features(images)
    assert packed_in(packed)[0].packs(images, torch.bfloat16) == HALF
    assert found.dtype == plain.dtype == torch.bfloat16

    def distance(x):
        return (x.float() - exact).square().mean().sqrt() / exact.std()

    assert 0 < distance(found) < 1.2 * distance(plain) + 1e-3 and distance(plain) < 0.1


def test_weights_are_laid_out_for_each_precision(packed):
    layer, x = copy.deepcopy(packed_in(packed)[0]), torch.rand(1, 3, 32, 32)
    exact = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = layer(x)
    assert torch.equal(layer(x), exact)
    assert 0 < (half.float() - exact).square().mean() < 1e-4 * exact.var()
    assert len(layer._packed) == 1 + HALF


def test_a_copy_can_be_made_after_use(packed):
    layer, x = packed_in(packed)[0], torch.rand(1, 3, 16, 16)
    first = layer(x)
    twin = copy.deepcopy(layer)
    assert layer._packed and not twin._packed
    torch.testing.assert_close(twin(x), first)
