"""After a day away, with a tenth of the results that `tests.bench.resync_figures` measures.

What is judged does not depend on how busy the machine is: CPU and memory.
"""

from pathlib import Path

from tests.bench.resync_figures import measure

ACTIVITIES = 1_000
RESULTS = 10_000
CPU_S = 8.0
"""Four times what it takes."""
MEMORY_BYTES = 64 << 20


async def test_what_was_missed_in_a_day_costs_little(tmp_path: Path) -> None:
    found = await measure(tmp_path, ACTIVITIES, RESULTS)

    assert found.results == RESULTS
    assert found.cpu_s < CPU_S
    assert found.working_bytes < MEMORY_BYTES
    assert found.taken, "a program that asked meanwhile was not answered"
