"""A device without a device: it works asynchronously, as a GPU does, in a time of its own."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

__all__ = ["SimulatedDevice"]


class SimulatedDevice:
    """An asynchronous device whose time is simulated: every way to time it wrongly, on any machine, with one result.

    A program hands work to it with `launch`, which returns as soon as the work stands in the queue. The device does
    one piece after the other, while the program goes on. Who wants the work done has to `synchronize`.

    Nothing is computed and nobody waits. There are two times, that of the program (what `clock` reads) and that at
    which the device will have done all its work, and the calls move them on.

    >>> device = SimulatedDevice(launch_s=0.001)
    >>> start = device.clock()
    >>> device.launch(0.5)
    >>> round(device.clock() - start, 6)  # the launch alone
    0.001
    >>> device.synchronize()
    >>> round(device.clock() - start, 6)  # the launch, and the work
    0.501

    The `i`-th launch of `work_s` takes `work_s · slow_first[i] · (1 + jitter · e)` on the device, where `e` is drawn
    from the exponential distribution of mean 1, and `outlier_factor` times as long in a share `outliers` of all
    launches. What is drawn depends on `seed` and `i` alone.

    Args:
        launch_s: how long the program is busy with one launch, before the device can begin.
        slow_first: by how much the first launches are slower (something is compiled, caches are cold); 1 after them.
        jitter: how much longer work takes than it should, on average, as a share of it. Noise never makes it faster.
        outliers: share of launches in which something else got in the way, from 0 to 1.
        outlier_factor: how many times as long such a launch takes.
        seed: of jitter and outliers.
        start_s: what the clock shows at first.

    Raises:
        ValueError: for a negative time, a factor or share out of its range.
    """

    def __init__(
        self,
        *,
        launch_s: float = 10e-6,
        slow_first: Sequence[float] = (),
        jitter: float = 0.0,
        outliers: float = 0.0,
        outlier_factor: float = 10.0,
        seed: int = 0,
        start_s: float = 0.0,
    ) -> None:
        if launch_s < 0 or start_s < 0:
            raise ValueError(f"launch_s and start_s must be at least 0, got {launch_s} and {start_s}")
        if jitter < 0 or not 0 <= outliers <= 1:
            raise ValueError(f"need jitter >= 0 and outliers from 0 to 1, got {jitter} and {outliers}")
        if outlier_factor <= 0 or any(factor <= 0 for factor in slow_first):
            raise ValueError(f"factors must be above 0, got {outlier_factor} and {tuple(slow_first)}")
        self.launch_s, self.slow_first = launch_s, tuple(slow_first)
        self.jitter, self.outliers, self.outlier_factor = jitter, outliers, outlier_factor
        self.launches = 0  # how many there were
        self._random = random.Random(seed)
        self._now = self._done = float(start_s)

    def launch(self, work_s: float) -> None:
        """Queue work of `work_s` seconds, and return without waiting for it.

        Raises:
            ValueError: for negative work.
        """
        if work_s < 0:
            raise ValueError(f"work_s must be at least 0, got {work_s}")
        self._now += self.launch_s
        self._done = max(self._done, self._now) + work_s * self._factor()
        self.launches += 1

    def synchronize(self) -> None:
        """Wait until all work that was launched is done."""
        self._now = max(self._now, self._done)

    def clock(self) -> float:
        """The program's time in seconds. Reading it takes none."""
        return self._now

    def elsewhere(self, seconds: float) -> None:
        """The program does something else for so long; the device works on meanwhile.

        Raises:
            ValueError: for negative seconds.
        """
        if seconds < 0:
            raise ValueError(f"seconds must be at least 0, got {seconds}")
        self._now += seconds

    def _factor(self) -> float:
        exponential = -math.log1p(-self._random.random())
        hit = self._random.random() < self.outliers  # drawn in any case: no setting moves the other's numbers
        factor = (1 + self.jitter * exponential) * (self.outlier_factor if hit else 1)
        first = self.launches < len(self.slow_first)
        return factor * (self.slow_first[self.launches] if first else 1)
