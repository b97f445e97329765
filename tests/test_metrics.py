"Counters of workers that end at the same moment"

import shutil

from mlserve import metrics
from mlserve.metrics import Metrics


def test_one_removes_the_folder_while_the_other_looks_who_is_left(tmp_path, monkeypatch):
    shared = tmp_path / "shared"
    shared.mkdir()
    first, second = Metrics(shared), Metrics(shared)
    looks = metrics.is_held

    def too_late(path):
        shutil.rmtree(shared)
        return looks(path)

    monkeypatch.setattr(metrics, "is_held", too_late)
    first.close()
    assert not shared.exists()
    second.close()
