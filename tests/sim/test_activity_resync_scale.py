"""After a day away, at a tenth of the size that `tests.bench.resync_figures` measures.

What is judged does not depend on how busy the machine is: CPU, memory, and the order of questions.
"""

from pathlib import Path

from tests.bench.resync_figures import measure

ACTIVITIES = 100
RESULTS = 10_000
CPU_S = 2.0
"""Four times what it takes."""
MEMORY_BYTES = 64 << 20


async def test_what_was_missed_in_a_day_costs_little_and_comes_oldest_first(tmp_path: Path) -> None:
    found = await measure(tmp_path, ACTIVITIES, RESULTS)

    assert found.results == RESULTS
    assert found.cpu_s < CPU_S
    assert found.working_bytes < MEMORY_BYTES
    assert found.late < 10, "a provider was asked for a young batch before old ones"
    assert found.taken, "a program that asked meanwhile was not answered"
