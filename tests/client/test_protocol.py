"""Messages: arrays come back as they were, and no bytes of anyone do more than raise the one error."""

import pickle
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from imf_jax.client.protocol import MAX_CONTAINERS, ProtocolError, pack, unpack

CASES = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
MANY = settings(CASES, max_examples=20_000)

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.binary(), inner, max_size=4),
    max_leaves=20,
)
KEYS = st.sampled_from([b"__ndarray__", b"__npgeneric__", b"data", b"dtype", b"shape"])
VALUES = (
    PLAIN
    | st.sampled_from(["<f4", "|u1", "O", "<M8[ns]", "f4,f4", "(9999999,)f8", "|V4", "<U9", "bogus", "|b1"])
    | st.lists(st.integers(-3, 2**40), max_size=12)
)
ARRAY_LIKE = st.dictionaries(KEYS, VALUES, min_size=2)


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.array(1.5),
        np.zeros((0, 3), np.int16),
        np.array([True, False]),
        np.array([np.nan, np.inf]),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.arange(3, dtype=">i4"),
    ],
)
def test_arrays_come_back_as_they_were(value: np.ndarray) -> None:
    back = unpack(pack({"x": value, "y": [np.float32(2.5), np.bool_(True), "text"]}))
    assert (back["x"].dtype, back["x"].shape) == (value.dtype, value.shape)
    np.testing.assert_array_equal(back["x"], value)
    assert back["y"] == [2.5, True, "text"]
    assert isinstance(back["y"][0], np.float32)


@pytest.mark.parametrize("value", [np.array([object()]), np.array(["a"]), object(), np.zeros(2, complex), {1, 2}])
def test_what_has_no_meaning_is_not_sent(value: Any) -> None:
    with pytest.raises(TypeError, match="cannot be sent"):
        pack({"x": value})


def array(**changes: Any) -> bytes:
    whole = {b"__ndarray__": True, b"data": b"\0" * 8, b"dtype": "<f4", b"shape": [2]}
    return msgpack.packb(whole | {name.encode(): value for name, value in changes.items()})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no msgpack"),
        (b"\xc1", "no msgpack"),
        (pack({"x": np.zeros(9)})[:-1], "no msgpack"),
        (pack(1) + b"\x01", "no msgpack"),
        (b"\x91" * 2000 + b"\x00", "no msgpack"),
        (b"\xdd\xff\xff\xff\xff", "no msgpack"),
        (msgpack.packb([{}] * (MAX_CONTAINERS + 1)), "more than 1000 maps and lists"),
        (msgpack.packb(msgpack.ExtType(42, b"x")), "the msgpack extension 42"),
        (msgpack.packb({1: 2}), "no msgpack"),
        (array(dtype="O"), "arrays of type 'O' are not read"),
        (array(dtype="f4,f4"), "are not read"),
        (array(dtype=7), "are not read"),
        (array(shape=[3]), "does not have 8 bytes"),
        (array(shape=[2**62, 2**62]), "does not have 8 bytes"),
        (array(shape=[-1]), "must be whole numbers"),
        (array(shape=[True, 2]), "must be whole numbers"),
        (array(shape=[1] * 9 + [2]), "at most 8 lengths"),
        (array(data="text"), "needs data"),
        (msgpack.packb({b"__npgeneric__": True, b"data": 300, b"dtype": "|u1"}), "no msgpack of the expected form"),
        (msgpack.packb({b"__npgeneric__": True, b"data": "x", b"dtype": "|u1"}), "needs a number"),
        (pickle.dumps({"state": [1.0]}), "no msgpack"),
    ],
)
def test_what_is_no_message_is_refused_by_one_line(data: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=message) as refused:
        unpack(data)
    assert "\n" not in str(refused.value)


def survives(data: bytes) -> None:
    try:
        unpack(data)
    except ProtocolError as error:
        assert str(error)  # noqa: PT017


@CASES
@given(st.binary(max_size=200))
@example(b"\xc7\x0c\xff" + b"\xff" * 12)  # a time stamp out of range
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    survives(data)


@CASES
@given(PLAIN | ARRAY_LIKE, st.data())
def test_changed_messages_are_a_message_or_refused(message: Any, data: st.DataObject) -> None:
    packed = bytearray(msgpack.packb(message))
    for _ in range(data.draw(st.integers(0, 3))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    survives(bytes(packed[: data.draw(st.integers(0, len(packed)))]))


@pytest.mark.long
@MANY
@given(st.binary(max_size=2000) | (PLAIN | ARRAY_LIKE).map(msgpack.packb))
def test_many_messages_are_a_message_or_refused(data: bytes) -> None:
    survives(data)
