"""A histogram's buckets, as Prometheus reads them."""

from weighbridge.telemetry.histogram import Histogram


def test_each_bucket_counts_all_that_is_not_more_than_its_bound() -> None:
    seen = Histogram((0.5, 2.0))
    for value in (0.25, 0.5, 1.0, 7.0):
        seen.note(value)
    assert list(seen.lines("x_seconds")) == [
        "# TYPE x_seconds histogram",
        'x_seconds_bucket{le="0.5"} 2',
        'x_seconds_bucket{le="2.0"} 3',
        'x_seconds_bucket{le="+Inf"} 4',
        "x_seconds_sum 8.75",
        "x_seconds_count 4",
    ]
