from __future__ import annotations

import inspect

import pytest

from pytest_resilience.faults.fault import Strike
from pytest_resilience.faults.network import Latency
from pytest_resilience.targets.fault_method import fault_method
from pytest_resilience.targets.target import NetworkFaults


def test_a_fault_method_has_the_name_the_docstring_and_the_settings_of_its_fault():
    method = fault_method(Latency)
    assert method.__name__ == "latency"
    assert method.__doc__ == Latency.__doc__
    assert list(inspect.signature(method).parameters) == ["self", "seconds", "jitter"]
    assert inspect.signature(method).return_annotation is Strike


def test_a_wrong_argument_of_a_fault_method_is_an_error_that_names_the_method():
    with pytest.raises(TypeError, match=r"^latency\(\): got an unexpected keyword argument 'jiter'"):
        NetworkFaults("redis", None).latency(1, jiter=1)
    with pytest.raises(TypeError, match=r"^latency\(\): missing a required argument: 'seconds'"):
        NetworkFaults("redis", None).latency()
