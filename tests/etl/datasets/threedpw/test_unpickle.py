import collections
import os
import pickle
import pickletools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from etl.datasets.threedpw.unpickle import read_pickle
from etl.demo.threedpw import python2_pickle
from etl.errors import DatasetError


class Calls:
    """Something whose pickle calls a function when it is read."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


def write(tmp_path, data: bytes):
    path = tmp_path / "sequence.pkl"
    path.write_bytes(data)
    return path


ARRAYS = {
    "float": np.arange(6, dtype=float).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "int": np.arange(3),
    "byte": np.array([1, 255], np.uint8),
    "bool": np.array([True, False]),
    "big endian": np.arange(3, dtype=">i4"),
    "empty": np.empty((0, 4), np.float32),
    "scalar array": np.array(2.5),
}


def test_python_2s_pickles_are_read_as_they_are(tmp_path):
    data = python2_pickle({"sequence": "a", "list": [1, 2.5, None, True, (1, 2)], **ARRAYS})
    assert {op.name for op, _, _ in pickletools.genops(data)}.isdisjoint({"BINUNICODE", "STACK_GLOBAL", "FRAME"})
    values = read_pickle(write(tmp_path, data))
    assert values["sequence"] == "a"
    assert values["list"] == [1, 2.5, None, True, (1, 2)]
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(values[name], array)
        assert values[name].dtype == array.dtype.newbyteorder("<")
    # numpy's own reading agrees that this is such a pickle
    own = pickle.loads(data, encoding="latin1")
    np.testing.assert_array_equal(own["float"], ARRAYS["float"])


@pytest.mark.parametrize("protocol", range(5))
def test_python_3s_pickles_are_read_too(tmp_path, protocol):
    values = {
        **ARRAYS,
        "scalar": np.float32(3.5),
        "objects": np.array([1, None, "x"], object),
        "containers": [{1}, frozenset({2}), collections.OrderedDict(a=1), (1j,), b"bytes"],
    }
    found = read_pickle(write(tmp_path, pickle.dumps(values, protocol=protocol)))
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype.newbyteorder("=")
    assert found["objects"].tolist() == [1, None, "x"]
    assert found["scalar"] == 3.5
    assert found["containers"] == values["containers"]


@settings(deadline=None, max_examples=40)
@given(hnp.arrays(st.sampled_from(["f8", "f4", "i8", "u1", "?"]), hnp.array_shapes(min_side=0, max_dims=4)))
def test_any_array_survives(tmp_path_factory, array):
    path = tmp_path_factory.getbasetemp() / "any.pkl"
    path.write_bytes(python2_pickle([array]))
    found = read_pickle(path)[0]
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype


def test_a_pickle_that_imports_os_is_refused_before_anything_runs(tmp_path):
    loud = tmp_path / "it ran"
    path = write(tmp_path, pickle.dumps({"betas": Calls(os.system, f"touch '{loud}'")}, protocol=2))
    with pytest.raises(DatasetError, match="numpy arrays and plain containers") as caught:
        read_pickle(path)
    assert str(path) in caught.value.rule
    assert f"{os.system.__module__}.system" in caught.value.found
    assert not loud.exists()


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (eval, ("1",)),
        (getattr, (1, "real")),
        (np.load, ("x.npy",)),
        (np.frombuffer, (b"1234", "i4")),
        (np.memmap, ("x", "i4")),
        (open, ("x",)),
        (__import__, ("os",)),
        (pickle.loads, (b"N.",)),
    ],
)
def test_every_other_global_is_refused_by_name(tmp_path, function, arguments):
    path = write(tmp_path, pickle.dumps([Calls(function, *arguments)], protocol=2))
    with pytest.raises(DatasetError, match="plain containers") as caught:
        read_pickle(path)
    assert function.__name__ in caught.value.found


def array_state(state) -> bytes:
    """A pickle of an array that is given `state`."""
    head = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    return head + state + b"b."


FLOAT = b"cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
OBJECT = b"cnumpy\ndtype\nU\x01OK\x00K\x01\x87R"
VOID = b"cnumpy\ndtype\nU\x03V16K\x00K\x01\x87R"
FIELDS = b"cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NU\x01a\x85}J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"

HOSTILE = {
    "fewer bytes than the shape needs": array_state(b"(K\x01K\x05\x85" + FLOAT + b"\x89U\x08" + b"\0" * 8 + b"t"),
    "enormous shape": array_state(b"(K\x01J\xff\xff\xff\x7f\x85" + FLOAT + b"\x89U\x08" + b"\0" * 8 + b"t"),
    "negative extent": array_state(b"(K\x01J\xff\xff\xff\xff\x85" + FLOAT + b"\x89U\x08" + b"\0" * 8 + b"t"),
    "pointers from bytes": array_state(b"(K\x01K\x01\x85" + OBJECT + b"\x89U\x08" + b"A" * 8 + b"t"),
    "list of another length": array_state(b"(K\x01K\x03\x85" + OBJECT + b"\x89]t"),
    "void dtype": array_state(b"(K\x01K\x01\x85" + VOID + b"\x89U\x10" + b"A" * 16 + b"t"),
    "dtype with fields": array_state(b"(K\x01K\x01\x85" + FIELDS + b"\x89U\x08" + b"A" * 8 + b"t"),
    "dtype that is none": array_state(b"(K\x01K\x01\x85N\x89U\x08" + b"A" * 8 + b"t"),
    "state of another form": array_state(b"K\x01"),
    "alters a function": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}U\x04evilK\x01sb.",
    "alters a type": b"\x80\x02c__builtin__\nset\nN}U\x04evilK\x01s\x86b.",
    "other encoding": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
    "persistent reference": b"\x80\x02U\x01xQ.",
    "memo bomb": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "no pickle": b"PK\x03\x04 something else",
    "empty stack": b"\x80\x02.",
    "scalar of objects": b"\x80\x02cnumpy.core.multiarray\nscalar\n" + OBJECT + b"U\x08AAAAAAAA\x86R.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused(tmp_path, name):
    path = write(tmp_path, HOSTILE[name])
    with pytest.raises(DatasetError, match="pickle of arrays") as caught:
        read_pickle(path)
    assert str(path) in str(caught.value)


def test_truncated_at_every_length(tmp_path):
    data = python2_pickle({"a": np.arange(3.0), "b": ["x"]})
    for length in range(1, len(data)):
        path = write(tmp_path, data[:length])
        with pytest.raises(DatasetError, match=r"sequence\.pkl"):
            read_pickle(path)


def test_absent_and_empty_files_are_named(tmp_path):
    with pytest.raises(DatasetError, match="no such file"):
        read_pickle(tmp_path / "none.pkl")
    with pytest.raises(DatasetError, match="0 bytes"):
        read_pickle(write(tmp_path, b""))
