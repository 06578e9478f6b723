"""A gateway as a process of its own: it logs requests at a fixed rate, as if it had them answered, until SIGTERM.

Called with a JSON document: dsn, writer, and rates_rps by service. At its end it prints how many it recorded of each.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import Counter

from partita.client import AsyncRequestLog

EVERY_S = 0.1


async def main(dsn: str, writer: str, rates_rps: dict[str, float]) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    recorded: Counter[str] = Counter()
    async with AsyncRequestLog(dsn, writer=writer, flush_s=0.2, lag_s=0.5) as log:
        while not ended.is_set():
            for service, rate_rps in rates_rps.items():
                number = round(rate_rps * EVERY_S)
                log.record_many(
                    service, arrived_s=[time.time()] * number, latency_s=[0.05] * number, status=["good"] * number
                )
                recorded[service] += number
            await asyncio.sleep(EVERY_S)
    print(json.dumps(recorded), flush=True)


if __name__ == "__main__":
    asyncio.run(main(**json.loads(sys.argv[1])))
