"Send feedback into a journal as fast as it takes it, and print each id once it is acknowledged, until killed."

import asyncio
import os
import sys
from pathlib import Path

from mlserve.database import NoDatabase, new_id
from mlserve.journal import Journal
from mlserve.metrics import Metrics
from mlserve.settings import Journal as Settings


async def send(journal):
    while True:
        ids = [new_id() for _ in range(3)]
        try:
            await journal.keep([(id_, "yes") for id_ in ids])
        except NoDatabase:
            await asyncio.sleep(0.05)
        else:
            os.write(1, "".join(f"{id_}\n" for id_ in ids).encode())


async def main():
    journal = Journal(Settings(url=os.environ.get("DATABASE_URL", "")), Path(sys.argv[1]), Metrics().cell)
    journal.start()
    await asyncio.gather(*[send(journal) for _ in range(16)])


asyncio.run(main())
