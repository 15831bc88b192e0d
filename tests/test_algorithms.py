"""The table of what the tests set for each algorithm."""

import pytest
from algorithms import ALGORITHMS, OF_ONE_LOSS, settings_of

from hvdclip.methods import METHODS


def test_it_has_a_row_for_each_algorithm():
    assert set(ALGORITHMS) == set(OF_ONE_LOSS)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_has_all_that_an_algorithm_cannot_do_without(algorithm):
    Settings = METHODS[algorithm].Settings
    required = {name for name, field in Settings.model_fields.items() if field.is_required()}
    given = {"lr": 1.0} | settings_of(algorithm)
    assert required <= set(given)
    Settings(**given)
