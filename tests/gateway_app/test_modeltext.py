"""Text of a model's form as values and back; every refusal names the value and the fix."""

import pytest

from gateway_app.modeltext import (
    read_buckets,
    read_fill_values,
    read_versions,
    read_warm_up,
    write_fill_values,
    write_list,
    write_warm_up,
)


def test_lists_are_read_with_or_without_blanks():
    assert read_versions(" 1,3 , 2,1") == ("1", "3", "2")
    assert read_buckets("16, 32,64,") == (16, 32, 64)
    assert read_versions("") == ()
    assert read_buckets("  ") == ()


def test_values_and_shapes_are_read_by_input():
    assert read_fill_values("input_ids = 1, a:0=-0.5") == {"input_ids": 1.0, "a:0": -0.5}
    assert read_warm_up("ids = 8x128, mask=8 × 128\n\n pixels = 1X3x224x224 ") == (
        {"ids": (8, 128), "mask": (8, 128)},
        {"pixels": (1, 3, 224, 224)},
    )


@pytest.mark.parametrize(
    ("read", "text", "says"),
    [
        (read_versions, "1, v2", "'v2' is no version. Write the numbers of folders, as in 1, 3."),
        (read_versions, "0", "'0' is no version"),
        (read_versions, ",", "',' holds nothing but commas. Write values, as in 1, 3, or nothing."),
        (read_buckets, " , ", "',' holds nothing but commas. Write values, as in 16, 32, 64, or nothing."),
        (read_fill_values, ",,", "',,' holds nothing but commas"),
        (read_warm_up, "ids = 1x2\n,", "',' holds nothing but commas"),
        (read_buckets, "16, x", "'x' is no length. Write whole numbers from 1 to 1,048,576"),
        (read_buckets, "0", "'0' is no length"),
        (read_buckets, "9999999", "'9999999' is no length"),
        (read_buckets, "16, 16", "16 follows 16. Write each length once, the smallest first."),
        (read_buckets, "32, 16", "16 follows 32."),
        (read_buckets, ",".join(str(n) for n in range(1, 34)), "These are 33 lengths. Write 32 at the most."),
        (read_fill_values, "a", "'a' lacks the name or the value. Write them as in input_ids = 1."),
        (read_fill_values, "a = one", "'one' is no number. Write what a is filled up with, as in a = 0."),
        (read_fill_values, "a = nan", "'nan' is no number."),
        (read_fill_values, "a = 1e999", "'1e999' is no number."),
        (read_fill_values, "a = 1, a = 2", "a has two values. Write one."),
        (read_warm_up, "a = 1x0", "'1x0' is no shape of a. Write every size, the batch first, as in 1x128."),
        (read_warm_up, "a = -1x3", "'-1x3' is no shape of a."),
        (read_warm_up, "a = 65536x65536", "65536x65536 of a has 4,294,967,296 elements."),
        (read_warm_up, "a=1, a=2", "a has two shapes in the line 'a=1, a=2'. Write one per line."),
        (read_warm_up, "\n".join(f"a = {n}" for n in range(1, 34)), "These are 33 lines. Write 32 at the most"),
    ],
)
def test_what_cannot_be_read_is_named_with_the_fix(read, text, says):
    with pytest.raises(ValueError) as caught:
        read(text)
    assert says in str(caught.value)


def test_what_is_written_reads_as_before():
    runs = ({"ids": (8, 128), "mask": (8, 128)}, {"ids": (1, 16), "mask": (1, 16)})
    values = {"a:0": 1.0, "b": -0.25}
    assert read_warm_up(write_warm_up(runs)) == runs
    assert read_fill_values(write_fill_values(values)) == values
    assert read_buckets(write_list((16, 32))) == (16, 32)
