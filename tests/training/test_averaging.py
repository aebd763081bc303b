"""The average of weights: its values, its ramp, what it leaves alone, and what a resumed training remembers of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medseg3d.training import WeightAverage


def set_weight(network: nn.Module, value: float) -> None:
    with torch.no_grad():
        network.weight.fill_(value)


def averaged(values: list[float], decay: float) -> tuple[nn.Linear, WeightAverage]:
    network = nn.Linear(1, 1, bias=False)
    average = WeightAverage(network, decay)
    for value in values:
        set_weight(network, value)
        average.update()
    return network, average


def test_the_average_is_exponential_and_its_decay_grows_to_the_one_asked_for():
    _, average = averaged([4.0, 1.0, 10.0, 2.0], decay=0.24)
    # shares kept: 2/11 = 0.18 after one iteration, then 3/12 = 0.25 and more, where 0.24 is the limit
    by_hand = 4.0 * 2 / 11 + 1.0 * 9 / 11
    by_hand = by_hand * 0.24 + 10.0 * 0.76
    by_hand = by_hand * 0.24 + 2.0 * 0.76
    assert average.network.weight.item() == pytest.approx(by_hand)


def test_the_network_that_is_trained_stays_as_it_is():
    network, average = averaged([4.0, 1.0], decay=0.9)
    assert network.weight.item() == 1.0
    assert average.network is not network


def test_without_decay_the_network_itself_is_validated_and_kept():
    network, average = averaged([4.0, 1.0], decay=0.0)
    assert average.network is network
    assert average.state_dict() == {}


def test_statistics_of_batchnorm_are_averaged_too():
    network = nn.BatchNorm2d(1)
    average = WeightAverage(network, decay=0.5)
    average.update()
    network.running_mean.fill_(11.0)
    average.update()  # keeps 2/11 of 0
    assert average.network.running_mean.item() == pytest.approx(9.0)


def test_an_average_goes_on_where_it_was_saved():
    _, whole = averaged([4.0, 1.0, 10.0], decay=0.9)
    _, first = averaged([4.0, 1.0], decay=0.9)
    network, resumed = averaged([], decay=0.9)
    resumed.load_state_dict(first.state_dict())
    set_weight(network, 10.0)
    resumed.update()
    assert torch.equal(resumed.network.weight, whole.network.weight)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5])
def test_a_decay_that_forgets_nothing_or_too_much_is_refused(decay: float):
    with pytest.raises(ValueError, match="ema_decay"):
        WeightAverage(nn.Linear(1, 1), decay)
