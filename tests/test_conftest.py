"""Two runs of the tests see the same random numbers and examples, unless a seed is given."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import pytest_configure


@pytest.mark.parametrize("number", [1, 2])
def test_every_test_begins_with_the_same_random_numbers(number):
    assert random.random() == random.Random(0).random()
    assert np.random.random() == np.random.RandomState(0).random()
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(0)))


@pytest.fixture(scope="module", params=[1, 2])
def shared(request):
    return torch.rand(3)


def test_what_tests_share_begins_with_the_same_random_numbers(shared):
    assert torch.equal(shared, torch.rand(3))


def test_torch_computes_in_one_thread():
    assert torch.get_num_threads() == 1


def examples() -> list[int]:
    found = []

    @given(st.integers())
    def look(number):
        found.append(number)

    look()
    return found


@pytest.fixture
def given_a_seed():
    before = settings.get_current_profile_name()
    pytest_configure(SimpleNamespace(getoption=lambda name: 7))
    yield
    settings.load_profile(before)


def test_examples_are_the_same_every_time():
    assert examples() == examples()


@pytest.mark.usefixtures("given_a_seed")
def test_examples_are_others_where_a_seed_is_given():
    assert examples() != examples()
