import gc

import pytest

from fxprune.garbage import collected_later


def test_collector_rests_meanwhile_and_is_back_even_after_an_error():
    assert gc.isenabled()
    with pytest.raises(ValueError, match="inside"), collected_later():
        assert not gc.isenabled()
        raise ValueError("inside")
    assert gc.isenabled()


def test_collector_that_rests_already_is_left_so():
    gc.disable()
    try:
        with collected_later():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_functions_can_be_told_to_do_so():
    @collected_later()
    def collects() -> bool:
        return gc.isenabled()

    assert [collects(), collects(), gc.isenabled()] == [False, False, True]
