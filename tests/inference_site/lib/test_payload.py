"""Bodies of /infer: nothing but an ApiError for what is wrong, the meaning of JSON for what is right."""

import json
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from inference_site.lib.errors import ApiError, error_body
from inference_site.lib.payload import decode_request, encode_answer, request_id_of

FINITE = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
IDS = st.text(st.characters(codec="utf-8"), max_size=20)


def refusal(body: bytes) -> ApiError:
    with pytest.raises(ApiError) as caught:
        decode_request(body)
    return caught.value


def check_never_worse_than_an_api_error(body: bytes) -> None:
    try:
        request_id, text, model = decode_request(body)
    except ApiError as error:
        assert error.status == 400
        assert error.code
        assert json.loads(error_body(error.message, error.code, request_id_of(body)))["error"] == error.message
        return
    assert isinstance(request_id, str)
    assert model is None or isinstance(model, str)
    assert text[:1] in (b"[", b"{")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,0123456789.eE+-tfn\\u request_id input_data', max_size=60))
@example(b'{"request_id":"a","input_data":1e999}')
@example(b"\xff")
@example(b"\xef\xbb\xbf{}")
def test_any_bytes_are_an_api_error_at_worst(body: bytes | str) -> None:
    check_never_worse_than_an_api_error(body if isinstance(body, bytes) else body.encode())


@settings(max_examples=300, deadline=None)
@given(JSON, st.booleans())
def test_any_json_is_an_api_error_at_worst(value: object, ascii_only: bool) -> None:
    check_never_worse_than_an_api_error(json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass"))


@settings(max_examples=300, deadline=None)
@given(JSON, JSON, st.dictionaries(st.text(), JSON, max_size=2))
def test_any_members_are_an_api_error_at_worst(request_id: object, input_data: object, more: dict[str, object]) -> None:
    body = json.dumps({**more, "request_id": request_id, "input_data": input_data})
    check_never_worse_than_an_api_error(body.encode())


NUMBER_TEXT = st.from_regex(r"-?(0|[1-9][0-9]{0,400})(\.[0-9]{1,5})?([eE][+-]?[0-9]{1,4})?", fullmatch=True)


@settings(max_examples=200, deadline=None)
@given(NUMBER_TEXT, NUMBER_TEXT)
def test_any_number_in_any_place_is_an_api_error_at_worst(one: str, other: str) -> None:
    for input_data in (one, f'{{"x":{one}}}', f'["a",{one}]', f"[{one},{other}]"):
        check_never_worse_than_an_api_error(f'{{"request_id":"a","input_data":{input_data},"x":{other}}}'.encode())
        check_never_worse_than_an_api_error(f'{{"request_id":{one},"input_data":{input_data}}}'.encode())
    check_never_worse_than_an_api_error(one.encode())


@settings(max_examples=200, deadline=None)
@given(IDS, st.lists(FINITE, max_size=20), st.booleans(), st.sampled_from([None, 1]))
def test_a_valid_body_means_what_json_says(
    request_id: str, numbers: list[float | int], ascii_only: bool, indent: int | None
) -> None:
    body = json.dumps(
        {"more": {"deep": [1, {"request_id": 5}]}, "request_id": request_id, "input_data": numbers},
        ensure_ascii=ascii_only,
        indent=indent,
    ).encode()
    found_id, text, model = decode_request(body)
    assert (found_id, model) == (request_id, None)
    assert json.loads(text) == numbers
    assert request_id_of(body) == request_id


def test_inputs_by_name_and_the_model_are_passed_on_as_they_were_written() -> None:
    body = b'{"model":"other", "inputs": {"x": [1, 2.50], "ids":[[3]]} , "request_id":"a"}'
    assert decode_request(body) == ("a", b'{"x": [1, 2.50], "ids":[[3]]}', "other")
    assert decode_request(b'{"request_id":"a","input_data":[1],"model":null}') == ("a", b"[1]", None)


def test_the_last_of_two_equal_members_counts_as_everywhere() -> None:
    assert decode_request(b'{"request_id":"a","input_data":[1],"request_id":"b","input_data":[2]}') == (
        "b",
        b"[2]",
        None,
    )


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        (b"", "empty_body", "empty"),
        (b"   ", "empty_body", "empty"),
        (b"nonsense", "invalid_json", "not valid JSON"),
        (b'{"request_id":"a","input_data":[1', "invalid_json", "ends too early"),
        (b'{"request_id":"a","input_data":[1,NaN]}', "invalid_json", "NaN is no number in JSON (byte 34)"),
        (b'{"request_id":"a","input_data":[-Infinity]}', "invalid_json", "Infinity is no number in JSON"),
        (b'{"request_id":"a\\ud800"}', "invalid_json", "half of a surrogate pair"),
        (b'{"request_id":"a","input_data":[1]} x', "invalid_json", "trailing"),
        (b"[]", "invalid_body", "array"),
        (b"null", "invalid_body", "null"),
        (b"{}", "missing_request_id", "request_id is missing"),
        (b'{"input_data":[1]}', "missing_request_id", "request_id is missing"),
        (b'{"request_id":"a"}', "missing_input_data", "input_data is missing"),
        (b'{"request_id":"a","input_data":[1],"model":""}', "invalid_model", 'model is ""; name a model'),
        (b'{"request_id":5,"input_data":[1]}', "invalid_request_id", "int"),
        (b'{"request_id":null,"input_data":[1]}', "invalid_request_id", "null"),
        (b'{"request_id":"a","input_data":"1"}', "invalid_input_data", "a string"),
        (b'{"request_id":"a","input_data":{}}', "invalid_input_data", "an object"),
        (b'{"request_id":"a","input_data":1}', "invalid_input_data", "a number"),
        (b'{"request_id":"a","input_data":true}', "invalid_input_data", "a boolean"),
        (b'{"request_id":"a","input_data":null}', "invalid_input_data", "null"),
        (b'{"request_id":"a","input_data":1e999}', "invalid_input_data", "a number"),
        (b'{"request_id":"a","input_data":%b}' % (b"9" * 4301), "invalid_input_data", "a number"),
        (b'{"request_id":"a","inputs":[1]}', "invalid_inputs", "a list"),
        (b'{"request_id":"a","inputs":null}', "invalid_inputs", "null"),
        (b'{"request_id":"a","inputs":{},"input_data":[1]}', "ambiguous_inputs", "one of the two"),
        (b'{"request_id":"a","input_data":[1],"model":5}', "invalid_model", "int"),
        (b'{"request_id":"\xff","input_data":[1]}', "invalid_encoding", "UTF-8"),
        (b'{"request_id":"a","input_data":[1],"x":"\xff"}', "invalid_encoding", "UTF-8"),
    ],
)
def test_what_is_wrong_is_named(body: bytes, code: str, says: str) -> None:
    error = refusal(body)
    assert (error.status, error.code) == (400, code)
    assert says in error.message


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"request_id":"a","input_data":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"request_id":"a","input_data":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
        b'{"request_id":"a","x":' + b"[" * 100_000 + b"]" * 100_000 + b',"input_data":[1]}',
        b'{"request_id":' + b"[" * 100_000 + b"]" * 100_000 + b',"input_data":[1]}',
    ],
)
def test_nesting_is_refused_soon(body: bytes) -> None:
    took_s: list[float] = []
    while not took_s or (min(took_s) >= 0.25 and len(took_s) < 10):  # a machine may be held up while it counts
        began = time.thread_time()
        error = refusal(body)
        took_s.append(time.thread_time() - began)
    assert error.status == 400
    assert request_id_of(body) is None
    assert min(took_s) < 0.25


def test_input_data_nested_as_deep_as_the_parser_goes_is_refused_by_one_of_the_two() -> None:
    for depth in (2, 100, 500, 1000, 1100):
        check_never_worse_than_an_api_error(
            b'{"request_id":"a","input_data":' + b"[" * depth + b"1" + b"]" * depth + b"}"
        )
        check_never_worse_than_an_api_error(
            b'{"request_id":"a","input_data":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"
        )


@settings(max_examples=100, deadline=None)
@given(IDS, IDS, st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=5), st.booleans())
def test_an_answer_is_the_json_it_says(request_id: str, node: str, output: list[float], cached: bool) -> None:
    body = encode_answer(request_id, json.dumps(output).encode(), json.dumps(node).encode(), cached, 17)
    assert json.loads(body) == {
        "request_id": request_id,
        "output_data": output,
        "node_id": node,
        "cached": cached,
        "inference_time_us": 17,
    }
