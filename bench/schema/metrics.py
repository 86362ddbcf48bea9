"""Reads /metrics with the parser of Prometheus' client and checks the naming rules of Prometheus."""

import math
import sys
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

UNITS_OF_OTHERS = ("_micros", "_millis", "_minutes", "_kib", "_percent")


def check_metrics(text):
    """The families by name; fails if one does not conform to Prometheus."""
    families, helps = {}, set()
    for family in text_string_to_metric_families(text):
        # The parser removes `_total` from the names of counters.
        assert family.name not in families, f"{family.name} is declared twice"
        assert family.type in ("counter", "gauge", "histogram"), f"{family.name} is {family.type}"
        assert family.documentation and family.documentation not in helps, f"{family.name}: {family.documentation!r}"
        assert not any(unit in family.name for unit in UNITS_OF_OTHERS), f"{family.name} is not in base units"
        for sample in family.samples:
            assert math.isfinite(sample.value) and sample.value >= 0, sample
            if family.type == "counter":
                assert sample.name.endswith("_total"), sample
        series = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in family.samples]
        assert len(series) == len(set(series)), f"{family.name} has a series twice"
        helps.add(family.documentation)
        families[family.name] = family
    return families


def main():
    with urllib.request.urlopen(sys.argv[1], timeout=10) as answer:
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4"), answer.headers["content-type"]
        families = check_metrics(answer.read().decode())
    for plane in ("controlplane", "dataplane"):
        for name in ("cpu_seconds", "resident_memory_bytes", "open_fds", "max_fds", "start_time_seconds", "threads"):
            samples = families[f"process_{name}"].samples
            value = [sample.value for sample in samples if sample.labels == {"plane": plane}]
            assert len(value) == 1 and (value[0] > 0 or name == "cpu_seconds"), (plane, name, samples)
    assert [sample.labels for sample in families["uprtc_worker_received"].samples] == [{"worker": "0"}]
    print(f"{len(families)} metrics are as Prometheus expects")


main()
