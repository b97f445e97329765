"Ids of answers: no two alike, whoever makes them"

import os
import threading

import pytest

from mlserve.database import is_id, new_id


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_names_answers_otherwise_than_its_parent():
    new_id()  # now there are ends in stock
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writing, "".join(new_id()[12:] for _ in range(100)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        theirs = told.read()
    os.waitpid(child, 0)
    ends = {theirs[start : start + 20] for start in range(0, len(theirs), 20)}
    assert len(ends) == 100 and ends.isdisjoint({new_id()[12:] for _ in range(300)})


def test_threads_name_answers_differently():
    made = []
    threads = [threading.Thread(target=lambda: made.extend([new_id() for _ in range(5_000)])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 20_000 and all(map(is_id, made))
