"""The door: which requests may share a batch, by their headers alone."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from inferd.serve.admission import BUCKETS, SMALLEST_BUCKET, Door, Plan, bucket
from inferd.wire.messages import MAX_ROWS, Infer
from inferd.wire.tensor import layout
from tests.running import double
from tests.work.in_process import Worker

DOOR = Door()
DOOR.open(
    list(
        Worker(
            *[double(name) for name in ("Sums", "Pixels", "Letters", "Lists", "Double", "Picky", "Hash")]
        ).models.values()
    )
)


def plan(model: str, rows: int = 0, **tensors: tuple[str, tuple[int, ...]]) -> Plan:
    lead = (rows,) if rows else ()
    table, end = layout((name, dtype, (*lead, *shape)) for name, (dtype, shape) in tensors.items())
    found = DOOR.plan(Infer(model, table, end, rows))
    assert isinstance(found, Plan), found
    return found


def lane(model: str, rows: int = 0, **tensors: Any) -> object:
    found = plan(model, rows, **tensors)
    return found.lane_of(found.tensor_end, False)


def sums(length: int, rows: int = 0) -> Plan:
    return plan("sums", rows, x=("FP32", (length,)), scale=("FP32", ()))


def sums_lane(length: int, rows: int = 0) -> object:
    return lane("sums", rows, x=("FP32", (length,)), scale=("FP32", ()))


# ---- buckets


@given(st.integers(0, 1 << 40))
def test_a_bucket_holds_its_length_and_wastes_little(length: int) -> None:
    """Above the smallest, a bucket is at most 1.27 times the length, so at most 21.5 % of it is padding."""
    size = bucket(length)
    assert size >= length and size in BUCKETS
    if length > SMALLEST_BUCKET:
        assert size <= 1.27 * length
        assert (size - length) / size <= 0.215


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_a_longer_length_has_no_smaller_bucket(one: int, other: int) -> None:
    """And equal buckets mean lengths of at most 1.27 times each other."""
    one, other = sorted((one, other))
    assert bucket(one) <= bucket(other)
    assert bucket(bucket(one)) == bucket(one)
    if bucket(one) == bucket(other) and one > SMALLEST_BUCKET:
        assert other <= 1.27 * one


def test_evenly_spread_lengths_waste_a_tenth() -> None:
    """In a full batch of one bucket, padded to its largest."""
    for low, high in itertools.pairwise(BUCKETS[2:32]):
        lengths = range(low + 1, high + 1)
        assert 1 - sum(lengths) / (len(lengths) * high) < 0.115


# ---- lanes


def test_padded_inputs_share_a_lane_by_bucket() -> None:
    """Lengths of one bucket share it, as items and as rows; lengths of two do not."""
    assert sums_lane(3) == sums_lane(16) == sums_lane(0) == sums_lane(5, rows=4)
    assert sums_lane(16) != sums_lane(17)
    assert sums_lane(bucket(100)) == sums_lane(100)
    assert sums_lane(100) != sums_lane(200)


def test_ragged_inputs_share_one_lane() -> None:
    """Nothing is padded, so lengths do not matter."""
    assert lane("lists", x=("FP32", (3,))) == lane("lists", 5, x=("FP32", (70_000,)))


def test_other_inputs_share_a_lane_by_shape() -> None:
    """A −1 without padding, and a model that declares nothing."""
    assert lane("double", x=("FP32", (3,))) == lane("double", 2, x=("FP32", (3,)))
    assert lane("double", x=("FP32", (3,))) != lane("double", x=("FP32", (4,)))
    assert lane("hash", x=("FP32", (3,))) != lane("hash", x=("FP64", (3,)))
    assert lane("hash", x=("FP32", (3,))) != lane("double", x=("FP32", (3,)))


def test_texts_share_a_lane_by_their_bytes() -> None:
    """Where a model asks for it; a request of rows counts the bytes of one."""
    letters = plan("letters")
    assert letters.lane_of(20, True) == letters.lane_of(19, True) != letters.lane_of(21, True)
    assert plan("letters", 10).lane_of(200, True) == letters.lane_of(20, True)
    assert plan("hash").lane_of(20, True) == plan("hash").lane_of(2000, True) != plan("hash").lane_of(0, False)


def test_a_lane_opens_with_its_model() -> None:
    """The scheduler knows models by that number."""
    for number, name in enumerate(DOOR.models):
        if name in ("letters", "hash"):
            found = plan(name).lane_of(500, True)
            assert isinstance(found, tuple) and found[0] == number


def test_lanes_are_forgotten_and_not_mixed_up() -> None:
    """Shapes come from callers: what is remembered of them is bounded, and a number never means two of them."""
    first = lane("hash", x=("FP32", (1, 2, 3)))
    lanes = {lane("hash", x=("FP32", (size,))) for size in range(10_000)}
    assert len(lanes) == 10_000 and first not in lanes
    assert len(DOOR._shapes) <= 4096 and len(DOOR._plans) <= 4096


# ---- room in the slab


def test_lengths_of_one_bucket_take_slots_of_one_size() -> None:
    """So that they share the slab's chunks; where shapes are exact a slot is as large as its payload."""
    assert sums(97).slot_bytes(390, False) == sums(90).slot_bytes(362, False) >= 390
    assert plan("double", x=("FP32", (97,))).slot_bytes(388, False) == 388
    assert plan("letters").slot_bytes(390, True) == plan("letters").slot_bytes(360, True)
    assert plan("lists", x=("FP32", (1 << 20,))).slot_bytes(4 << 20, False) == 4 << 20


# ---- cost


def test_cost_counts_padded_elements() -> None:
    """One item's elements in its bucket, and that for every row."""
    assert sums(3).weight == SMALLEST_BUCKET + 1
    assert sums(100).weight == bucket(100) + 1
    assert sums(100, rows=7).weight == bucket(100) + 1
    assert plan("lists", x=("FP32", (100,))).weight == 100
    assert plan("pixels", image=("UINT8", (20, 30, 3))).weight == bucket(20) * bucket(30) * 3
    assert plan("letters").weight == 1


def test_a_request_may_have_more_rows_than_a_batch() -> None:
    """The worker splits it; what is too much is refused where the header is read."""
    assert plan("picky", MAX_ROWS, x=("FP32", (1,))).rows == MAX_ROWS
