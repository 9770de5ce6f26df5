"""The simulated device: a launch returns at once, work queues up, and all of it is the same on every machine."""

import doctest
import functools
import itertools
import statistics
import time

import pytest

from attn_course.benchmark import SimulatedDevice, simulated


def timed(device, work_s, calls):
    """The seconds of each call, launch and work, honestly taken."""
    times = []
    for _ in range(calls):
        start = device.clock()
        device.launch(work_s)
        device.synchronize()
        times.append(device.clock() - start)
    return times


def test_the_example_in_the_docstring_holds():
    assert doctest.testmod(simulated).failed == 0 < doctest.testmod(simulated).attempted


def test_a_launch_takes_its_overhead_whatever_it_launches():
    device = SimulatedDevice(launch_s=0.003, start_s=7.0)
    assert device.clock() == 7.0
    for work_s in (0.0, 0.5, 1100.0):
        before = device.clock()
        device.launch(work_s)
        assert device.clock() - before == pytest.approx(0.003)
    assert device.launches == 3


def test_work_begins_after_its_launch_and_waits_for_what_was_launched_before():
    device = SimulatedDevice(launch_s=0.01)
    device.launch(0.5)
    device.launch(0.3)  # launched while the first one runs: hidden behind it
    device.synchronize()
    assert device.clock() == pytest.approx(0.01 + 0.5 + 0.3)
    device.launch(0.2)  # the device was idle
    device.synchronize()
    assert device.clock() == pytest.approx(0.81 + 0.01 + 0.2)


def test_waiting_twice_or_reading_the_clock_takes_no_time():
    device = SimulatedDevice()
    device.launch(0.5)
    device.synchronize()
    now = device.clock()
    device.synchronize()
    assert device.clock() == device.clock() == now


def test_the_device_works_while_the_program_is_elsewhere():
    device = SimulatedDevice(launch_s=0.0)
    device.launch(0.5)
    device.elsewhere(0.2)
    device.synchronize()
    assert device.clock() == pytest.approx(0.5)
    device.launch(0.5)
    device.elsewhere(0.7)
    device.synchronize()
    assert device.clock() == pytest.approx(1.2)


def test_the_first_launches_are_slower_by_their_factors():
    times = timed(SimulatedDevice(launch_s=0.0, slow_first=(30, 5)), 0.01, 4)
    assert times == pytest.approx([0.3, 0.05, 0.01, 0.01])


def test_jitter_only_adds_and_its_mean_is_what_it_says():
    times = timed(SimulatedDevice(launch_s=0.0, jitter=0.3, seed=3), 1.0, 4000)
    assert min(times) >= 1 - 1e-9
    assert statistics.mean(times) == pytest.approx(1.3, abs=0.03)
    assert statistics.median(times) == pytest.approx(1 + 0.3 * 0.693, abs=0.03)


def test_outliers_are_as_many_and_as_slow_as_asked_for():
    times = timed(SimulatedDevice(launch_s=0.0, outliers=0.1, outlier_factor=17, seed=5), 1.0, 4000)
    slow = [t for t in times if t > 1.5]
    assert slow == pytest.approx([17] * len(slow)) and 0.08 < len(slow) / 4000 < 0.12


def test_the_same_seed_gives_the_same_times_and_another_one_others():
    make = functools.partial(SimulatedDevice, jitter=0.2, outliers=0.1)
    one, two, other = (timed(make(seed=seed), 0.01, 23) for seed in (1, 1, 2))
    assert one == two and one != other


def test_no_setting_moves_what_another_one_draws():
    """Outliers are the same launches with jitter as without it."""
    plain = timed(SimulatedDevice(launch_s=0.0, outliers=0.2, seed=7), 1.0, 101)
    noisy = timed(SimulatedDevice(launch_s=0.0, outliers=0.2, jitter=0.01, seed=7), 1.0, 101)
    assert [t > 5 for t in plain] == [t > 5 for t in noisy] and any(t > 5 for t in plain)


def test_nobody_waits_and_the_clock_never_goes_back():
    device, start = SimulatedDevice(jitter=1.0, outliers=0.5), time.monotonic()
    readings = []
    for _ in range(11):
        device.launch(3600.0)
        readings.append(device.clock())
        device.synchronize()
        readings.append(device.clock())
    assert device.clock() > 11 * 3600 and time.monotonic() - start < 3600
    assert all(a <= b for a, b in itertools.pairwise(readings))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"launch_s": -1e-6}, r"launch_s.*-1e-06"),
        ({"start_s": -2.0}, r"-2\.0"),
        ({"jitter": -0.1}, r"jitter.*-0\.1"),
        ({"outliers": 1.5}, r"0 to 1.*1\.5"),
        ({"outlier_factor": 0}, "above 0.*0"),
        ({"slow_first": (3, -2)}, r"above 0.*\(3, -2\)"),
    ],
)
def test_a_setting_out_of_its_range_is_refused_with_its_value(options, words):
    with pytest.raises(ValueError, match=words):
        SimulatedDevice(**options)


@pytest.mark.parametrize("method", ["launch", "elsewhere"])
def test_negative_seconds_are_refused(method):
    with pytest.raises(ValueError, match=r"-0\.5"):
        getattr(SimulatedDevice(), method)(-0.5)
